package status

// For the tests, which stand outside: the scenes import this package.
var Metrics = metrics

const MaxHosts = maxHosts

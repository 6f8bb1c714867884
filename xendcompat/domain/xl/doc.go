// Package xl is the toolstack of hosts with Xen: it runs Xen's own, the command xl, and never through a shell. Domains are
// made with xl create -e, so that xl leaves no process that acts when they end: who acts is the Manager.
package xl

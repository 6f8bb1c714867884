// Package plural writes numbers of things.
package plural

import "fmt"

// Of is a number of things, whose plural has an s: "1 host", "2 hosts".
func Of(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

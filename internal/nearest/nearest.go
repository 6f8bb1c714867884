// Package nearest finds what a misspelt word may have been meant to be.
package nearest

import (
	"strings"

	"github.com/agnivade/levenshtein"
)

// To returns the known word that is the most like word, whatever its case; "" if none is: more than a third of
// the letters would have to be added, taken away or changed.
func To(word string, known []string) string {
	best, least := "", len(word)/3+1
	if len(word) > maxWord {
		return ""
	}
	for _, k := range known {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// maxWord is how many bytes a word may have to be looked at: the time that it takes grows with it.
const maxWord = 64

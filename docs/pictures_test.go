package docs

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/offload"
	"github.com/xenvnet/xend/dataplane/wire"
)

// Each section of concepts.md has one picture, with words for who does not see it; no picture is left over.
func TestConcepts(t *testing.T) {
	b, err := os.ReadFile("concepts.md")
	require.NoError(t, err)
	picture := regexp.MustCompile(`!\[([^\]]*)\]\(images/([a-z-]+\.svg)\)`)
	sections := strings.Split(string(b), "\n## ")[1:]
	require.NotEmpty(t, sections)
	var used []string
	for _, s := range sections {
		heading, _, _ := strings.Cut(s, "\n")
		m := picture.FindAllStringSubmatch(s, -1)
		require.Len(t, m, 1, heading)
		require.Greater(t, len(m[0][1]), 100, "%s: what the picture shows, in words", heading)
		used = append(used, "images/"+m[0][2])
	}
	files, err := filepath.Glob("images/concept-*.svg")
	require.NoError(t, err)
	require.ElementsMatch(t, files, used)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { drawing(t, file) })
	}
}

// drawing checks that a picture has a title, shows its words as a whole, is readable in the dark, and needs nothing from elsewhere.
func drawing(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(b), "@media (prefers-color-scheme:dark)")
	d := xml.NewDecoder(strings.NewReader(string(b)))
	var width, height float64
	var title, words string
	var x, y float64
	var class string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch e := token.(type) {
		case xml.StartElement:
			attr := map[string]string{}
			for _, a := range e.Attr {
				attr[a.Name.Local] = a.Value
			}
			require.NotContains(t, []string{"script", "image", "use", "foreignObject"}, e.Name.Local)
			require.NotContains(t, attr, "href")
			words, class = "", attr["class"]
			switch e.Name.Local {
			case "svg":
				require.Equal(t, "img", attr["role"])
				_, err := fmt.Sscanf(attr["viewBox"], "0 0 %f %f", &width, &height)
				require.NoError(t, err)
			case "text":
				x, y = number(t, attr["x"]), number(t, attr["y"])
			}
		case xml.CharData:
			words += string(e)
		case xml.EndElement:
			switch e.Name.Local {
			case "title":
				title = words
			case "text":
				// Letters are about half as wide as they are high.
				wide, left := float64(len([]rune(words)))*7.5, x
				fields := " " + class + " "
				if strings.Contains(fields, " s ") || strings.Contains(fields, " m ") {
					wide = wide * 12 / 14
				}
				switch {
				case strings.Contains(fields, " c "):
					left = x - wide/2
				case strings.Contains(fields, " e "):
					left = x - wide
				}
				require.True(t, left >= 0 && left+wide <= width && y > 0 && y <= height, "%q is cut off", words)
			}
		}
	}
	require.NotEmpty(t, title)
}

func number(t *testing.T, s string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(s, 64)
	require.NoError(t, err)
	return f
}

// The numbers of concepts.md and its pictures are those of the code.
func TestConceptsNumbers(t *testing.T) {
	b, err := os.ReadFile("concepts.md")
	require.NoError(t, err)
	picture, err := os.ReadFile("images/concept-mtu.svg")
	require.NoError(t, err)
	// ESP in UDP: SPI and number, IV, the inner UDP header, its end and the ICV.
	const sealed = offload.VUDPv4 + 8 + 8 + wire.UDPLen + 2 + 16
	for _, n := range []int{
		int(offload.VUDPv4), wire.FrameLen, 1500 + wire.FrameLen + int(offload.VUDPv4), offload.VUDPv4.InnerMTU(1500), int(sealed), int(sealed) + 3, sealed.InnerMTU(1500),
	} {
		require.Regexp(t, fmt.Sprintf(`\b%d\b`, n), string(b))
		require.Regexp(t, fmt.Sprintf(`\b%d\b`, n), string(picture))
	}
	require.Contains(t, string(b), wire.Group.String())
}

// Command screenshots tries the status page in Debian's Chromium, and takes the pictures of it that docs/monitoring.md
// shows, of hosts that do not exist: `make screenshots`.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/status"
	"github.com/xenvnet/xend/xendcompat/status/statustest"
)

// shot is a picture.
type shot struct {
	name          string
	scene         *statustest.Scene
	path          string
	width, height int
	dark          bool
}

func main() {
	dir := flag.String("o", "docs/images", "where the pictures go")
	serve := flag.String("serve", "", "serve a page (well, ill or large) on 127.0.0.1:9798 and take no pictures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *dir, *serve); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, only string) error {
	scenes := map[string]*statustest.Scene{"well": statustest.Well(), "ill": statustest.Ill(), "large": statustest.Large(300, 3000)}
	if only != "" {
		return serve(ctx, scenes[only], "127.0.0.1:9798", nil)
	}
	if err := try(ctx); err != nil {
		return fmt.Errorf("the page in a browser: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, s := range []shot{
		{"status-well", scenes["well"], "/xend/", 1280, 1900, false},
		{"status-ill-dark", scenes["ill"], "/xend/", 1280, 2360, true},
		{"status-ill-phone", scenes["ill"], "/xend/", 412, 2200, false},
		{"status-vnet-dark", scenes["well"], "/xend/vnet/98#change-help", 1280, 1980, true}, // with the form to change it open
	} {
		if err := take(ctx, s, filepath.Join(dir, s.name+".png")); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// serve serves a scene's pages until ctx ends; ready is called with the address.
func serve(ctx context.Context, scene *statustest.Scene, address string, ready func(address string)) error {
	log := slog.New(slog.DiscardHandler)
	st := status.New(scene, status.Options{Log: log, Now: scene.Now, Host: "xen-a", Check: scene.Check})
	for range 60 {
		scene.Pass(10 * time.Second)
		st.Sample()
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if ready != nil {
		go ready(ln.Addr().String())
	}
	return httpx.NewServer("status", st.Handler(status.Everybody(), nil), httpx.Options{Log: log}).Serve(ctx, ln)
}

// take has Chromium draw a page.
func take(ctx context.Context, s shot, file string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	home, err := os.MkdirTemp("", "screenshots")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	var failure error
	err = serve(ctx, s.scene, "127.0.0.1:0", func(address string) {
		defer cancel()
		args := []string{
			"--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir=" + home, "--virtual-time-budget=1000",
			fmt.Sprintf("--window-size=%d,%d", s.width, s.height), "--screenshot=" + file,
		}
		if s.dark {
			args = append(args, "--blink-settings=preferredColorScheme=0")
		} else {
			args = append(args, "--blink-settings=preferredColorScheme=1")
		}
		out, err := exec.CommandContext(ctx, "chromium", append(args, "http://"+address+s.path)...).CombinedOutput()
		if err != nil {
			failure = fmt.Errorf("chromium: %w\n%s", err, out)
		}
	})
	if err = errors.Join(err, failure); err != nil {
		return err
	}
	return reduce(file)
}

// reduce writes a picture anew with the 256 colours that it has most of: a quarter of the bytes, and nobody sees it.
func reduce(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	bounds := img.Bounds()
	count := map[color.RGBA]int{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[coarse(img.At(x, y))]++
		}
	}
	most := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int { return count[b] - count[a] })
	var palette color.Palette
	for _, c := range most[:min(256, len(most))] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(bounds, palette)
	index := map[color.RGBA]uint8{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			c := coarse(img.At(x, y))
			i, ok := index[c]
			if !ok {
				i = uint8(palette.Index(c))
				index[c] = i
			}
			small.SetColorIndex(x, y, i)
		}
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, small); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// coarse takes colours that nobody can tell apart for one.
func coarse(c color.Color) color.RGBA {
	r, g, b, _ := c.RGBA()
	step := func(v uint32) uint8 { return uint8(min(255, (v>>8+1)/2*2)) }
	return color.RGBA{step(r), step(g), step(b), 255}
}

// Command probe is what busybox has no tool for, in the domains of the test on Xen:
//
//	probe echo PORT                UDP echo
//	probe udp ADDR:PORT MAX STEP   the kernel's UDP packets (partial checksums) of 1, 1+STEP … MAX bytes, echoed and compared
//	probe gap ADDR:PORT SECONDS MS a packet every MS ms; losses, and the longest time without an answer
//	probe unix SOCKET FILE         what a server on a unix socket answers to the bytes of a file
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

func die(err error) {
	if err != nil {
		fmt.Println("probe:", err)
		os.Exit(1)
	}
}
func num(s string) int { n, err := strconv.Atoi(s); die(err); return n }

func main() {
	a := os.Args
	switch a[1] {
	case "echo":
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: num(a[2])})
		die(err)
		b := make([]byte, 65536)
		for {
			if n, from, err := c.ReadFromUDP(b); err == nil {
				_, err = c.WriteToUDP(b[:n], from)
				die(err)
			}
		}
	case "udp":
		c, err := net.Dial("udp4", a[2])
		die(err)
		sent, good := 0, 0
		r := make([]byte, 65536)
		for size := 1; size <= num(a[3]); size += num(a[4]) {
			w := make([]byte, size)
			for i := range w {
				w[i] = byte(i*7 + size)
			}
			for try := 0; try < 3; try++ { // a first packet may be lost, a wrong one is always told
				if try == 0 {
					sent++
				}
				if _, err := c.Write(w); err != nil {
					fmt.Println("size", size, err)
					continue
				}
				die(c.SetReadDeadline(time.Now().Add(4 * time.Second)))
				n, err := c.Read(r)
				if err == nil && bytes.Equal(r[:n], w) {
					good++
					break
				}
				fmt.Println("size", size, "got", n, "bytes", err)
			}
		}
		fmt.Printf("PROBE-UDP sent %d good %d\n", sent, good)
	case "unix":
		b, err := os.ReadFile(a[3])
		die(err)
		c, err := net.Dial("unix", a[2])
		die(err)
		die(c.SetDeadline(time.Now().Add(time.Minute)))
		_, err = c.Write(b)
		die(err)
		_, err = io.Copy(os.Stdout, c)
		die(err)
	case "gap":
		c, err := net.Dial("udp4", a[2])
		die(err)
		every := time.Duration(num(a[4])) * time.Millisecond
		begin := time.Now()
		end := begin.Add(time.Duration(num(a[3])) * time.Second)
		sent, answered := 0, 0
		go func() {
			for time.Now().Before(end) {
				b := make([]byte, 16)
				binary.BigEndian.PutUint64(b, uint64(sent))
				_, _ = c.Write(b) // what is lost shows in the answers
				sent++
				time.Sleep(every)
			}
		}()
		r := make([]byte, 64)
		last, worst, until := begin, time.Duration(0), begin
		for time.Now().Before(end) {
			die(c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)))
			if k, err := c.Read(r); err != nil || k < 8 {
				continue
			}
			now := time.Now()
			if d := now.Sub(last); d > worst {
				worst, until = d, now
			}
			last = now
			answered++
		}
		if d := end.Sub(last); d > worst {
			worst, until = d, time.Time{}
		}
		back := "never"
		if !until.IsZero() {
			back = fmt.Sprintf("%.3f", float64(until.UnixMilli())/1000)
		}
		fmt.Printf("PROBE-GAP sent %d answered %d longest %d ms back %s\n", sent, answered, worst.Milliseconds(), back)
	}
}

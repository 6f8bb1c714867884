package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/ipv4"
)

// The roles are what runs inside the domains: the bench starts itself there as `bench role NAME ARGS`.
// Each prints one JSON object.

const (
	echoPort  = 7777
	countPort = 9999
	rrSize    = 64 // bytes of a request and of its response
	ppsSize   = 64 // bytes of UDP payload
	rrTimeout = 200 * time.Millisecond
)

// rrResult is what a request/response run measured.
type rrResult struct {
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_us"`
	P90       float64 `json:"p90_us"`
	P99       float64 `json:"p99_us"`
	Lost      int     `json:"lost"`
}

// countResult is what a packet count measured.
type countResult struct {
	Packets   int     `json:"packets"`
	PerSecond float64 `json:"per_second"`
}

func runRole(args []string) error {
	if len(args) == 0 {
		return errors.New("bench role: no role")
	}
	name, args := args[0], args[1:]
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	seconds := func(i int) time.Duration {
		f, _ := strconv.ParseFloat(arg(i), 64)
		return time.Duration(f * float64(time.Second))
	}
	var result any
	var err error
	switch name {
	case "echo":
		return roleEcho()
	case "count":
		result, err = roleCount(seconds(0))
	case "send":
		result, err = roleSend(arg(0), seconds(1))
	case "macs":
		n, _ := strconv.Atoi(arg(0))
		result, err = roleMACs(n)
	case "rr":
		result, err = roleRR(arg(0), arg(1), seconds(2))
	default:
		return fmt.Errorf("bench role: unknown role %q", name)
	}
	if err != nil {
		return fmt.Errorf("bench role %s: %w", name, err)
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// roleEcho answers TCP and UDP on echoPort until it is told to end.
func roleEcho() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pc, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(b[:n], from)
		}
	}()
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 65536)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	fmt.Println("{}")
	<-ctx.Done()
	return nil
}

// roleCount counts the datagrams that arrive on countPort, from the first to the last one.
func roleCount(d time.Duration) (countResult, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: countPort})
	if err != nil {
		return countResult{}, err
	}
	defer c.Close()
	_ = c.SetReadBuffer(8 << 20)
	pc := ipv4.NewPacketConn(c)
	ms := make([]ipv4.Message, 64)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	var r countResult
	var first, last time.Time
	_ = c.SetReadDeadline(time.Now().Add(d))
	for {
		n, err := pc.ReadBatch(ms, 0)
		if err != nil {
			break // the deadline
		}
		last = time.Now()
		if first.IsZero() {
			first = last
			continue
		}
		r.Packets += n
	}
	if s := last.Sub(first).Seconds(); s > 0 {
		r.PerSecond = float64(r.Packets) / s
	}
	return r, nil
}

// roleSend sends small datagrams to countPort as fast as it can.
func roleSend(to string, d time.Duration) (countResult, error) {
	c, err := net.Dial("udp4", net.JoinHostPort(to, strconv.Itoa(countPort)))
	if err != nil {
		return countResult{}, err
	}
	defer c.Close()
	_ = c.(*net.UDPConn).SetWriteBuffer(4 << 20)
	pc := ipv4.NewPacketConn(c.(*net.UDPConn))
	ms := make([]ipv4.Message, 64)
	payload := make([]byte, ppsSize)
	for i := range ms {
		ms[i].Buffers = [][]byte{payload}
	}
	var r countResult
	start := time.Now()
	for time.Since(start) < d {
		n, err := pc.WriteBatch(ms, 0)
		if err != nil && n <= 0 {
			continue // no buffer, or nobody listens yet: the receiver counts what matters
		}
		r.Packets += n
	}
	r.PerSecond = float64(r.Packets) / time.Since(start).Seconds()
	return r, nil
}

// roleMACs says something to everybody from so many MACs, at most 5,000 a second.
func roleMACs(n int) (countResult, error) {
	ifi, err := net.InterfaceByName("eth0")
	if err != nil {
		return countResult{}, err
	}
	const protocol = 0x88b5 // for experiments: IEEE 802
	c, err := packet.Listen(ifi, packet.Raw, protocol, nil)
	if err != nil {
		return countResult{}, err
	}
	defer func() { _ = c.Close() }()
	frame := make([]byte, 60)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0xbe})
	binary.BigEndian.PutUint16(frame[12:], protocol)
	start := time.Now()
	for i := range n {
		binary.BigEndian.PutUint32(frame[8:], uint32(i))
		if _, err := c.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])}); err != nil {
			return countResult{}, err
		}
		if ahead := time.Duration(i)*time.Second/5000 - time.Since(start); ahead > 10*time.Millisecond {
			time.Sleep(ahead)
		}
	}
	return countResult{Packets: n, PerSecond: float64(n) / time.Since(start).Seconds()}, nil
}

// roleRR sends requests one after the other and takes each one's time.
func roleRR(network, to string, d time.Duration) (rrResult, error) {
	c, err := net.DialTimeout(network+"4", net.JoinHostPort(to, strconv.Itoa(echoPort)), 5*time.Second)
	if err != nil {
		return rrResult{}, err
	}
	defer c.Close()
	b := make([]byte, rrSize)
	var r rrResult
	took := make([]time.Duration, 0, 1<<20)
	start := time.Now()
	for now := start; now.Sub(start) < d; {
		if _, err := c.Write(b); err != nil {
			return r, err
		}
		_ = c.SetReadDeadline(now.Add(rrTimeout))
		_, err := io.ReadFull(c, b)
		after := time.Now()
		if err != nil {
			r.Lost++
			if network == "tcp" || r.Lost > 100 {
				return r, err
			}
		} else {
			took = append(took, after.Sub(now))
		}
		now = after
	}
	r.PerSecond = float64(len(took)) / time.Since(start).Seconds()
	if len(took) > 0 {
		slices.Sort(took)
		micros := func(q float64) float64 {
			return float64(took[int(q*float64(len(took)-1))].Nanoseconds()) / 1e3
		}
		r.P50, r.P90, r.P99 = micros(0.5), micros(0.9), micros(0.99)
	}
	return r, nil
}

package varp_test

import (
	"testing"

	"github.com/xenvnet/xend/dataplane/varp"
)

const many = 100_000

func fullTable(b *testing.B) (*varp.Table, []varp.Key) {
	b.Helper()
	t := varp.New(varp.Options{MaxRemote: many})
	keys := make([]varp.Key, many)
	for i := range keys {
		keys[i] = key(i)
		t.LearnRemote(keys[i], host(i%50), varp.Frame, 0)
	}
	return t, keys
}

func BenchmarkLookup(b *testing.B) {
	t, keys := fullTable(b)
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			t.Lookup(keys[7])
		}
	})
	b.Run("all", func(b *testing.B) {
		i := 0
		for b.Loop() {
			t.Lookup(keys[i%many])
			i += 7919
		}
	})
	b.Run("miss", func(b *testing.B) {
		i := 0
		for b.Loop() {
			t.Lookup(key(many + i&0xffff))
			i++
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			i := 0
			for pb.Next() {
				t.Lookup(keys[i%many])
				i += 7919
			}
		})
	})
}

func BenchmarkLearn(b *testing.B) {
	t, keys := fullTable(b)
	b.Run("known", func(b *testing.B) {
		i, now := 0, int64(0)
		for b.Loop() {
			t.LearnRemote(keys[i%many], host(i%many%50), varp.Frame, now)
			i += 7919
			now += 1000
		}
	})
	b.Run("flood", func(b *testing.B) { // every frame from another MAC: eviction all the time
		i := many
		for b.Loop() {
			t.LearnRemote(key(i), host(1), varp.Frame, int64(i))
			i++
		}
	})
}

func BenchmarkSweep(b *testing.B) {
	t, _ := fullTable(b)
	for b.Loop() {
		t.Sweep(1)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	t, _ := fullTable(b)
	for b.Loop() {
		t.Remote(1)
	}
}

func BenchmarkCount(b *testing.B) {
	tab, _ := fullTable(b)
	for b.Loop() {
		tab.Count()
	}
}

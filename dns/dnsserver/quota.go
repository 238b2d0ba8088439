package dnsserver

import (
	"net/netip"
	"sync"
)

// quota gives out places, and to one client not more than a quarter of them. It is safe for concurrent use.
type quota struct {
	all, each int

	mu   sync.Mutex
	held int
	by   map[netip.Addr]int // of clients that have any
}

func newQuota(all int) *quota {
	return &quota{all: all, each: max(1, all/4), by: map[netip.Addr]int{}}
}

// take gives the client a place, if there is one for it.
func (q *quota) take(client netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held >= q.all || q.by[client] >= q.each {
		return false
	}
	q.held++
	q.by[client]++
	return true
}

// give takes a place back.
func (q *quota) give(client netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held--
	if q.by[client]--; q.by[client] == 0 {
		delete(q.by, client)
	}
}

func (q *quota) taken() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held
}

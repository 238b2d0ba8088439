package sleeve

// begin makes the keys of the first epochs. The caller holds mu.
func (l *link2) begin() error {
	var open openings
	for i := range open[1:] {
		o, err := l.opening(uint64(i))
		if err != nil {
			return err
		}
		open[1+i] = o
	}
	aead, err := l.keys.make(0, l.params.Outbound, l.theirs.check)
	if err != nil {
		return err
	}
	l.openings.Store(&open)
	l.sealing.Store(&sealing{aead: aead})
	return nil
}

func (l *link2) opening(epoch uint64) (*opening, error) {
	aead, err := l.keys.make(epoch, !l.params.Outbound, l.own.check)
	return &opening{epoch: epoch, aead: aead}, err
}

// advance makes an epoch the newest that was seen, after a datagram of it was opened.
func (l *link2) advance(to *opening) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.openings.Load()
	if old[2] != to {
		return
	}
	next, err := l.opening(to.epoch + 1)
	if err != nil {
		l.log.Error("sleeve: no keys", "err", err)
		return
	}
	l.openings.Store(&openings{old[1], to, next})
}

// rekey begins the next epoch of what we send.
func (l *link2) rekey() {
	l.mu.Lock()
	defer l.mu.Unlock()
	epoch := l.sealing.Load().epoch + 1
	aead, err := l.keys.make(epoch, l.params.Outbound, l.theirs.check)
	if err != nil {
		l.log.Error("sleeve: no keys", "err", err)
		return
	}
	l.sealing.Store(&sealing{epoch: epoch, aead: aead})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/examples/weaver/daemon"
	"github.com/overweave/overweave/mesh/peer"
)

// weaverConfig is what a process is told that is to be weaver's daemon.
type weaverConfig struct {
	Name       string
	Host, Peer netip.Addr
	Password   string
	Overlay    string // the only one to offer
	Socket     string
	Profile    string
}

// runWeaver is the reference daemon without names and addresses, which carry no frames.
func runWeaver(ctx context.Context, c weaverConfig, say func(any) error) error {
	stop, err := profile(c.Profile)
	if err != nil {
		return err
	}
	defer stop()
	name, err := peer.Parse(c.Name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- daemon.Run(ctx, daemon.Config{
			Name: name, Nickname: c.Host.String(), Host: c.Host, Peers: []string{c.Peer.String()}, Password: []byte(c.Password), Overlays: []string{c.Overlay},
			NoDNS: true, HTTPAddr: c.Socket, DBPrefix: filepath.Join(filepath.Dir(c.Socket), c.Host.String()+"-"),
		})
	}()
	client := api.NewClient(c.Socket)
	for answers := false; !answers; {
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Millisecond):
			_, err := client.Report(ctx)
			answers = err == nil
		}
	}
	if err := say(struct{}{}); err != nil {
		return err
	}
	return <-ended
}

// wireGuardMTU is what wireguard-go gives its device if nothing else is said.
const wireGuardMTU = wgdevice.DefaultMTU

// wireGuardConfig is what a process is told that is to be wireguard-go. Keys are in hexadecimal.
type wireGuardConfig struct {
	Device              string
	PrivateKey, PeerKey string
	Port                uint16
	Peer                netip.AddrPort
	Allowed             netip.Prefix
	Profile             string
}

// runWireGuard does what the main function of wireguard-go does.
func runWireGuard(ctx context.Context, c wireGuardConfig, say func(any) error) error {
	stop, err := profile(c.Profile)
	if err != nil {
		return err
	}
	defer stop()
	dev, err := tun.CreateTUN(c.Device, wireGuardMTU)
	if err != nil {
		return err
	}
	wg := wgdevice.NewDevice(dev, conn.NewDefaultBind(), wgdevice.NewLogger(wgdevice.LogLevelError, "wireguard-go: "))
	defer wg.Close()
	err = wg.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\nallowed_ip=%s\n",
		c.PrivateKey, c.Port, c.PeerKey, c.Peer, c.Allowed))
	if err := errors.Join(err, wg.Up()); err != nil {
		return err
	}
	if err := say(struct{}{}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-wg.Wait():
		return errors.New("wireguard-go ended by itself")
	}
}

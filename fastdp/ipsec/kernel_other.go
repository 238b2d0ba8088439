//go:build !linux

package ipsec

import (
	"context"
	"errors"
	"fmt"
)

var errUnsupported = fmt.Errorf("ipsec: %w on this system", errors.ErrUnsupported)

// XFRM is the IPsec of a kernel. There is none for this system.
type XFRM struct{}

// OpenKernel returns an error that wraps [errors.ErrUnsupported].
func OpenKernel() (*XFRM, error) { return nil, errUnsupported }

// Probe returns an error that wraps [errors.ErrUnsupported].
func Probe() error { return errUnsupported }

// Close does nothing.
func (*XFRM) Close() error { return nil }

// PutPolicy fails.
func (*XFRM) PutPolicy(Policy) error { return errUnsupported }

// DeletePolicy fails.
func (*XFRM) DeletePolicy(Policy) error { return errUnsupported }

// AddAssociation fails.
func (*XFRM) AddAssociation(Association) error { return errUnsupported }

// DeleteAssociation fails.
func (*XFRM) DeleteAssociation(Association) error { return errUnsupported }

// List fails.
func (*XFRM) List() ([]Policy, []Association, error) { return nil, nil, errUnsupported }

// Watch fails.
func (*XFRM) Watch(context.Context, func(Event)) error { return errUnsupported }

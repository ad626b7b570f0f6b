//go:build !unix

package client

import "net"

// alive takes every connection for open: a request on one that is not fails.
func alive(net.Conn) bool { return true }

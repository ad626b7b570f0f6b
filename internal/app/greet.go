package app

import (
	"fmt"
	"net"
	"strings"
)

// greet tells a person what runs and what to try.
func (a *App) greet() {
	scheme := "http"
	if a.started.Listen.TLS.Enabled() {
		scheme = "https"
	}
	url := scheme + "://" + dialable(a.mcpListener.Addr().String()) + "/mcp"
	fmt.Fprintf(a.opts.Out, "Millrace %s serves MCP at %s\n", a.opts.Version, url)
	if len(a.adminListener) > 0 {
		fmt.Fprintf(a.opts.Out, "admin (health, metrics, profiles): http://%s\n", dialable(a.adminListener[0].Addr().String()))
	}
	g := a.current.Load()
	headers := ""
	if g.keys.Open() {
		fmt.Fprintln(a.opts.Out, "No API keys are configured: everybody who reaches this address may call.")
	} else {
		headers = `, "headers": {"Authorization": "Bearer KEY"}` // the configuration has only the keys' hashes
	}
	fmt.Fprintf(a.opts.Out, "\nFor a client's configuration:\n{\"mcpServers\": {\"millrace\": {\"type\": \"http\", \"url\": %q%s}}}\n", url, headers)
	if a.opts.File != "" {
		return
	}
	flag := ""
	if url != "http://127.0.0.1:8080/mcp" {
		flag = " --url " + url
	}
	fmt.Fprintf(a.opts.Out, "\nTo try it:\n  millrace call get_city id=2950159%s\n  millrace call search_cities name=Zür%s\n"+
		"  millrace call nearest_cities latitude=48.2 longitude=16.37 limit=3%s\n", flag, flag, flag)
}

// dialable gives the address that a client on this machine can use.
func dialable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(strings.TrimSpace(host), port)
}

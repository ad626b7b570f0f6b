package app

import (
	"strings"
	"testing"
)

// TestGreetingWithKeys: what a person copies into a client has the header that the server asks for.
func TestGreetingWithKeys(t *testing.T) {
	t.Parallel()
	var out buffer
	start(t, "auth:\n  keys:\n"+keyLine("k", "key")+one, func(o *Options) { o.Out = &out })
	if got := out.String(); !strings.Contains(got, `/mcp", "headers": {"Authorization": "Bearer KEY"}}}}`) {
		t.Errorf("got %s", got)
	}
}

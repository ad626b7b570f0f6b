// Package e2e drives the millrace binary as its users do: MCP clients of other makers, the command line, and input
// that no good client would send.
package e2e

import (
	"testing"

	"millrace/e2e/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

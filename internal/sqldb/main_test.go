package sqldb

import (
	"testing"

	"millrace/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

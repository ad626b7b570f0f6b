package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"millrace/e2e/harness"
)

// TestReportInBrowser opens the HTML reports of sample runs in a real browser, from disk, and measures what a reader sees.
func TestReportInBrowser(t *testing.T) {
	t.Parallel()
	browser := newBrowser(t)
	dir := writeReports(t)
	for scheme, names := range map[string][]string{"light": {"sample", "stress", "hostile", "huge", "one", "none", "zero"}, "dark": {"sample", "stress", "none"}} {
		for _, name := range names {
			t.Run(scheme+"/"+name, func(t *testing.T) {
				tab := browser.open(t, filepath.Join(dir, name+".html"), scheme, 1280)
				seen := do(tab, chromedp.Evaluate[measured](measure))
				for _, fault := range seen.Faults {
					t.Error(fault)
				}
				if full := name == "sample" || name == "stress"; seen.Headings < 7 || full && seen.Charts < 9 {
					t.Errorf("%d headings and %d charts can be seen", seen.Headings, seen.Charts)
				}
				if want := map[string]string{"light": "rgb(255, 255, 255)", "dark": "rgb(15, 20, 25)"}[scheme]; seen.Background != want {
					t.Errorf("the background is %s, want %s", seen.Background, want)
				}
				tab.quiet()
			})
		}
	}
	t.Run("telephone", func(t *testing.T) {
		for _, name := range []string{"sample", "huge"} {
			tab := browser.open(t, filepath.Join(dir, name+".html"), "light", 380)
			seen := do(tab, chromedp.Evaluate[measured](measure))
			if seen.Width > 380 {
				t.Errorf("%s is %d pixels wide on a telephone of 380", name, seen.Width)
			}
			for _, fault := range seen.Faults {
				t.Errorf("%s: %s", name, fault)
			}
			tab.quiet()
		}
	})
	t.Run("pointer", func(t *testing.T) {
		tab := browser.open(t, filepath.Join(dir, "sample.html"), "light", 1280)
		at := do(tab, chromedp.Evaluate[struct{ X, Y float64 }](`(() => {
			const chart = document.querySelector("#latency-time svg.chart");
			chart.scrollIntoView({block: "center"});
			const box = chart.getBoundingClientRect();
			return {X: box.x + box.width / 2, Y: box.y + box.height / 2};
		})()`))
		do(tab, chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at.X, at.Y))
		text := do(tab, chromedp.Evaluate[string](`document.querySelector("#latency-time .readout").textContent`))
		if !regexp.MustCompile(`^From \d.* · p50 \d.* · p99 \d`).MatchString(text) {
			t.Errorf("the pointer over a chart reads %q", text)
		}
		tab.quiet()
	})
	t.Run("print", func(t *testing.T) {
		tab := browser.open(t, filepath.Join(dir, "sample.html"), "dark", 1280)
		pdf := do(tab, chromedp.PrintToPDF(chromedp.PDFPrintBackground()))
		tab.emulate("print", "dark")
		background := do(tab, chromedp.Evaluate[string](`getComputedStyle(document.body).backgroundColor`))
		pages := len(regexp.MustCompile(`/Type\s*/Page\b[^s]`).FindAll(pdf, -1))
		if pages < 2 || pages > 12 || len(pdf) < 20_000 {
			t.Errorf("the PDF has %d pages in %d bytes", pages, len(pdf))
		}
		if background != "rgb(255, 255, 255)" {
			t.Errorf("printed on %s", background)
		}
		if keep := os.Getenv("MILLRACE_REPORTS"); keep != "" {
			if err := os.WriteFile(filepath.Join(keep, "sample.pdf"), pdf, 0o600); err != nil {
				t.Error(err)
			}
		}
		tab.quiet()
	})
	// What the tests above find nothing of must be what they can find.
	t.Run("control", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(dir, "sample.html"))
		if err != nil {
			t.Fatal(err)
		}
		for add, want := range map[string]string{
			`<script>document.title = "in"</script>`:         "Content Security Policy",
			`<style>body { color: #999 }</style>`:            "Content Security Policy",
			`<img src="http://127.0.0.1:9/x.png" alt="" />`:  "127.0.0.1:9",
			`<p><font color="#999999">pale</font></p>`:       "contrast",
			`<h2 hidden="">nowhere</h2>`:                     "cannot be seen",
			`<div hidden=""><svg class="chart"></svg></div>`: "svg  cannot be seen",
			`<svg class="chart"></svg>`:                      "nothing is drawn",
		} {
			file := filepath.Join(t.TempDir(), "control.html")
			if err := os.WriteFile(file, []byte(strings.Replace(string(text), "</main>", add+"</main>", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			tab := browser.open(t, file, "light", 1280)
			seen := do(tab, chromedp.Evaluate[measured](measure))
			if found := strings.Join(append(seen.Faults, tab.heard()...), "\n"); !strings.Contains(found, want) {
				t.Errorf("with %s added, no %q is found: %s", add, want, found)
			}
		}
	})
}

// measured is what a page says of itself.
type measured struct {
	Faults                  []string
	Charts, Headings, Width int
	Background              string
}

// measure runs in the page: headings and charts that cannot be seen, and texts that stand out too little.
const measure = `(() => {
	const faults = [];
	const channels = (text) => text.match(/[\d.]+/g).map(Number);
	const luminance = ([r, g, b]) => {
		const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * x + 0.7152 * y + 0.0722 * z;
	};
	const background = (element) => {
		for (; element; element = element.parentElement) {
			const c = channels(getComputedStyle(element).backgroundColor);
			if (c.length === 3 || c[3] === 1) return c;
		}
		return [255, 255, 255];
	};
	const checked = new Set();
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walker.nextNode()) {
		const element = walker.currentNode.parentElement;
		if (checked.has(element) || !walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("title, desc, script, style")) continue;
		checked.add(element);
		const style = getComputedStyle(element);
		const text = luminance(channels(element instanceof SVGElement ? style.fill : style.color)), back = luminance(background(element));
		const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
		if (contrast < 4.5) faults.push("contrast " + contrast.toFixed(2) + " of " + element.tagName + " " + walker.currentNode.data.trim().slice(0, 40));
	}
	if (checked.size < 30) faults.push("only " + checked.size + " texts");
	const visible = (element) => {
		const box = element.getBoundingClientRect();
		const ok = element.checkVisibility() && box.width > 20 && box.height > 10;
		if (!ok) faults.push(element.tagName + " " + (element.id || element.textContent.slice(0, 40)) + " cannot be seen: " + box.width + " by " + box.height);
		return ok;
	};
	const charts = [...document.querySelectorAll("svg.chart")].filter(visible);
	for (const chart of charts) {
		const drawn = [...chart.querySelectorAll("path.line")].some((path) => path.getBoundingClientRect().width > 20);
		if (!drawn) faults.push("nothing is drawn in " + chart.querySelector("title")?.textContent);
	}
	const headings = [...document.querySelectorAll("h1, h2, h3")].filter(visible);
	return {Faults: faults, Charts: charts.length, Headings: headings.length, Width: document.documentElement.scrollWidth, Background: getComputedStyle(document.body).backgroundColor};
})()`

// writeReports has the tests of internal/load write the reports of their sample runs. It gives the folder.
func writeReports(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if keep := os.Getenv("MILLRACE_REPORTS"); keep != "" {
		dir = keep
	}
	test := exec.Command("go", "test", "-count=1", "-run=^TestReports$", "./internal/load")
	test.Dir = harness.Repository()
	test.Env = append(os.Environ(), "MILLRACE_REPORTS="+dir)
	if out, err := test.CombinedOutput(); err != nil {
		t.Fatalf("write the reports: %v\n%s", err, out)
	}
	return dir
}

// A browser is a Chromium that ends with its test.
type browser struct{ ctx context.Context }

func newBrowser(t *testing.T) *browser {
	t.Helper()
	var found string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			found = p
			break
		}
	}
	if found == "" {
		t.Fatal("no chromium in PATH: scripts/setup test installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(found), chromedp.NoSandbox,
		chromedp.Flag("disable-background-networking", true), chromedp.UserDataDir(t.TempDir()))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", found, err)
	}
	return &browser{ctx}
}

// A tab has a page open and hears what goes on in it.
type tab struct {
	t   *testing.T
	ctx context.Context
	mu  sync.Mutex // guards said
	// said are the console's errors, exceptions, and requests beyond the page itself.
	said []string
}

func (b *browser) open(t *testing.T, file, scheme string, width int64) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	t.Cleanup(stop)
	tab := &tab{t: t, ctx: ctx}
	own := "file://" + file
	hear := func(event any) {
		var said string
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			said = fmt.Sprintf("console.%s", e.Type)
		case *runtime.EventExceptionThrown:
			said = "exception: " + e.ExceptionDetails.Text
		case *log.EventEntryAdded:
			said = fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
		case *network.EventRequestWillBeSent:
			if e.Request.URL != own {
				said = "request of " + e.Request.URL
			}
		}
		if said != "" {
			tab.mu.Lock()
			defer tab.mu.Unlock()
			tab.said = append(tab.said, said)
		}
	}
	if err := chromedp.Do(ctx); err != nil { // opens the tab
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, hear); err != nil {
		t.Fatal(err)
	}
	call(tab, network.Enable, network.EnableParams{})
	call(tab, log.Enable, cdp.Empty{})
	call(tab, runtime.Enable, cdp.Empty{})
	tab.emulate("", scheme)
	do(tab, chromedp.EmulateViewport(width, 900))
	do(tab, chromedp.Navigate(own))
	return tab
}

func (b *tab) emulate(media, scheme string) {
	b.t.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: media,
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

func do[T any](b *tab, action chromedp.Action[T]) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, action)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func call[P, R any](b *tab, command cdp.Command[P, R], params P) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, command, params); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) heard() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.said...)
}

// quiet fails the test for whatever was heard.
func (b *tab) quiet() {
	b.t.Helper()
	for _, said := range b.heard() {
		b.t.Error(said)
	}
}

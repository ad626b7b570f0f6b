// Package telemetry is what an operator sees of a running server: the log and the metrics, with the names that
// dashboards and alerts rest on.
//
// It knows nothing of the protocol or of any other package here: whoever has a figure brings it as a plain number, or as
// a function that is asked at each scrape. On the request path it costs one observation on a histogram whose labels were
// resolved when the configuration was loaded; nothing is looked up by text, allocated or shared between processors.
//
// Label values come from the configuration (tools, sources) or from fixed words (methods, revisions, kinds of errors),
// never from what a client sent: the number of series is bounded by the configuration.
package telemetry

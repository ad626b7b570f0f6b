package mcp

// Method is a request's or notification's method. The zero value is one that nobody knows.
type Method uint8

// The methods of all revisions.
const (
	MethodUnknown Method = iota
	Initialize
	Ping
	ServerDiscover
	SubscriptionsListen
	ToolsList
	ToolsCall
	ResourcesList
	ResourceTemplatesList
	ResourcesRead
	ResourcesSubscribe
	ResourcesUnsubscribe
	PromptsList
	PromptsGet
	CompletionComplete
	LoggingSetLevel
	NotificationInitialized
	NotificationCancelled
	NotificationProgress
	NotificationRootsChanged
	methodCount
)

// MethodCount is one more than the greatest Method, for arrays by method.
const MethodCount = int(methodCount)

var methodNames = [...]string{
	"unknown", "initialize", "ping", "server/discover", "subscriptions/listen", "tools/list", "tools/call",
	"resources/list", "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe",
	"prompts/list", "prompts/get", "completion/complete", "logging/setLevel", "notifications/initialized",
	"notifications/cancelled", "notifications/progress", "notifications/roots/list_changed",
}

// String gives the method's name on the wire; "unknown" for MethodUnknown.
func (m Method) String() string { return methodNames[m] }

func parseMethod(name []byte) Method {
	switch string(name) { // the compiler makes a binary search of this: faster than a map, and it allocates nothing
	case "initialize":
		return Initialize
	case "ping":
		return Ping
	case "server/discover":
		return ServerDiscover
	case "subscriptions/listen":
		return SubscriptionsListen
	case "tools/list":
		return ToolsList
	case "tools/call":
		return ToolsCall
	case "resources/list":
		return ResourcesList
	case "resources/templates/list":
		return ResourceTemplatesList
	case "resources/read":
		return ResourcesRead
	case "resources/subscribe":
		return ResourcesSubscribe
	case "resources/unsubscribe":
		return ResourcesUnsubscribe
	case "prompts/list":
		return PromptsList
	case "prompts/get":
		return PromptsGet
	case "completion/complete":
		return CompletionComplete
	case "logging/setLevel":
		return LoggingSetLevel
	case "notifications/initialized":
		return NotificationInitialized
	case "notifications/cancelled":
		return NotificationCancelled
	case "notifications/progress":
		return NotificationProgress
	case "notifications/roots/list_changed":
		return NotificationRootsChanged
	}
	return MethodUnknown
}

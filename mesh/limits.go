package mesh

// Limits on what is read. They are far above what a mesh needs and far below what could hurt; docs/limits.md lists them.
const (
	MaxFileBytes      = 4 << 20 // one file
	MaxDocuments      = 10000   // documents in a file, List items counted one by one
	MaxDepth          = 64      // nesting of mappings and sequences in a document
	MaxProblems       = 100     // problems told of one object
	MaxRules          = 512     // rules of one AuthorizationPolicy, Istio's limit
	MaxRegexBytes     = 1024    // one regular expression
	MaxBodyBytes      = 1 << 20 // directResponse.body, Envoy's limit
	maxNameLength     = 253     // metadata.name, RFC 1123 subdomain
	maxLabelLength    = 63      // a namespace, one label of a host name
	maxServiceAccount = 320     // one entry of source.serviceAccounts, Istio's limit
	maxAccountEntries = 16      // entries of source.serviceAccounts, Istio's limit
)

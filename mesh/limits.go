package mesh

import "time"

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

// Limits of RequestAuthentication.
const (
	MaxJWTRules     = 64        // jwtRules of one object
	MaxJWKSBytes    = 256 << 10 // jwks
	maxJWTLocations = 16        // each of audiences, fromHeaders, fromParams, fromCookies
	maxClaimHeaders = 32        // outputClaimToHeaders of one rule
	maxJWKSTimeout  = 60 * time.Second
	maxURLBytes     = 2048 // jwksUri (Istio's limit), bundle.url, decisionLog.url
	maxWordBytes    = 1024 // an issuer, an audience, a claim
)

// Limits of RegoPolicy.
const (
	MaxModuleBytes  = 512 << 10 // one module
	MaxModules      = 64        // modules of one policy
	MaxModulesBytes = 2 << 20   // all of them
	MaxDataBytes    = 1 << 20   // data, encoded
	MaxDataDepth    = 32        // nesting of data
	MaxPEMBytes     = 256 << 10 // caCertificates, publicKey
	MaxRegoTimeout  = 10 * time.Second
	minRegoDelay    = 100 * time.Millisecond // polling, reporting
	maxRegoDelay    = 24 * time.Hour
	maxDecisions    = 100_000 // decisionLog.buffer
)

// Limits of RateLimitPolicy.
const (
	MaxLimitRules     = 256 // rules of local and of global, each; Envoy Gateway's limit of global
	maxTargetRefs     = 16
	maxSelectors      = 8  // clientSelectors of one rule, Envoy Gateway's limit
	maxSelectorFields = 16 // headers, methods and queryParams of one selector, each; Envoy Gateway's limit
	maxSelectorValue  = 1024
)

// Limits of MeshConfig's extensionProviders.
const (
	MaxProviders           = 64
	MaxAuthorizerBodyBytes = 1 << 20 // includeRequestBodyInCheck.maxRequestBytes
	maxAuthorizerTimeout   = 600 * time.Second
	maxAuthorizerHeaders   = 64 // each list of names
)

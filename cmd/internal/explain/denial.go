package explain

import "time"

// Denial is what a sidecar remembers of the denials of one caller by one rule.
type Denial struct {
	// From is the caller's SPIFFE ID, else its address; To is NAMESPACE/WORKLOAD.
	From string `json:"from"`
	To   string `json:"to"`
	// By is the rule, KIND/NAMESPACE/NAME[RULE].
	By string `json:"by"`
	// Method, Path and Status are of the last one.
	Method string    `json:"method"`
	Path   string    `json:"path"`
	Status int       `json:"status"`
	Count  uint64    `json:"count"`
	Last   time.Time `json:"last"`
}

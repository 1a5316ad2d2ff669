package compile

import "testing"

// A request that can be read in several ways is judged by the reading that is safe: which differs between DENY and ALLOW.
func TestReadings(t *testing.T) {
	for _, c := range []struct {
		operation   string
		call        call
		allow, deny bool // whether the rule matches
	}{
		// paths: patterns as written against the path, decoded against its decoded reading
		{`paths: ["/v1/job:cancel"]`, call{path: "/v1/job%3Acancel", second: "/v1/job:cancel"}, false, true},
		{`paths: ["/v1/job:cancel"]`, call{path: "/v1/job:cancel"}, true, true},
		{`paths: ["/caf%C3%A9"]`, call{path: "/caf%C3%A9", second: "/caf\xc3\xa9"}, true, true},
		{`paths: ["/caf%C3%A9"]`, call{path: "/caf%c3%a9", second: "/caf\xc3\xa9"}, false, true},
		{`paths: ["/files/a%2Fb"]`, call{path: "/files/a%2Fb", second: "/files/a/b"}, true, true},
		{`paths: ["/files/a%2Fb"]`, call{path: "/files/a%2fb", second: "/files/a/b"}, false, true},
		{`paths: ["/files/a%2Fb"]`, call{path: "/files/a/b"}, false, true},
		{`paths: ["/files/a%5Cb"]`, call{path: "/files/a%5Cb", second: "/files/a/b"}, true, true},
		{`paths: ["/a%2F..%2Fb"]`, call{path: "/a%2F..%2Fb", second: "/b"}, true, true},
		{`paths: ["/a%2F..%2F"]`, call{path: "/a%2F..%2F", second: "/"}, true, true},
		{`paths: ["/100%25"]`, call{path: "/100%25", second: "/100%"}, true, true},
		{`paths: ["/100%25"]`, call{path: "/100%2525", second: "/100%25"}, false, false},
		{`paths: ["/a*"]`, call{path: "/a%2Fb", second: "/a/b"}, true, true},
		{`paths: ["/a%2F*"]`, call{path: "/a%2Fb", second: "/a/b"}, true, true},
		{`paths: ["/a%2F*"]`, call{path: "/a%2fb", second: "/a/b"}, false, true},
		{`paths: ["*%20x"]`, call{path: "/a%20x", second: "/a x"}, true, true},
		{`paths: ["/t/{*}/a%20b"]`, call{path: "/t/1/a%20b", second: "/t/1/a b"}, true, true},
		{`paths: ["/t/{*}/a%C3%A9"]`, call{path: "/t/1/a%c3%a9", second: "/t/1/a\xc3\xa9"}, false, true},
		{`paths: ["/t/{**}/%C3%A9"]`, call{path: "/t/1/2/%C3%a9", second: "/t/1/2/\xc3\xa9"}, false, true},
		{`notPaths: ["/files/a%2Fb"]`, call{path: "/files/a%2Fb", second: "/files/a/b"}, false, false},
		{`notPaths: ["/files/a%2Fb"]`, call{path: "/files/a%2fb", second: "/files/a/b"}, false, true},
		{`notPaths: ["/files/a%2Fb"]`, call{path: "/files/c"}, true, true},

		// hosts: without port and trailing dot where that is safe
		{`hosts: [api.shop]`, call{host: "api.shop:8080"}, false, true},
		{`hosts: [api.shop]`, call{host: "API.shop."}, false, true},
		{`hosts: [api.shop]`, call{host: "api.shop.:80"}, false, true},
		{`hosts: [api.shop]`, call{host: "api.shop:"}, false, true},
		{`hosts: ["*.shop"]`, call{host: "api.shop.:80"}, false, true},
		{`hosts: ["api.shop:80"]`, call{host: "api.shop:80"}, true, true},
		{`hosts: ["api.shop:80"]`, call{host: "api.shop:81"}, false, false},
		{`hosts: ["[::1]"]`, call{host: "[::1]:80"}, false, true},
		{`hosts: ["[:"]`, call{host: "[::1]"}, false, false},
		{`hosts: [api.shop]`, call{host: "api.shop.evil"}, false, false},
		{`notHosts: [api.shop]`, call{host: "api.shop:8080"}, false, true},
		{`notHosts: [api.shop]`, call{host: "api.shop."}, false, true},
		{`notHosts: ["api.shop:80"]`, call{host: "api.shop:80"}, false, false},
		{`notHosts: [api.shop]`, call{host: "b.shop:80"}, true, true},
	} {
		conn, req := c.call.read(t)
		for action, want := range map[string]bool{"ALLOW": c.allow, "DENY": c.deny} {
			for name, p := range engines(t, parse(t, "shop", "p", `{action: `+action+`, rules: [{to: [{operation: {`+c.operation+`}}]}]}`)) {
				_, d := p.Decide(conn, req)
				if matched := d.Rule != nil; matched != want {
					t.Errorf("%s, %s of %s on %+v: %+v, want a match %v", name, action, c.operation, c.call, d, want)
				}
			}
		}
	}
}

// Judging by several readings costs no memory.
func TestReadingsAllocate(t *testing.T) {
	conn, req := call{host: "Api.shop.:80", path: "/x/a%2fb", second: "/x/a/b"}.read(t)
	for name, p := range engines(t, parse(t, "shop", "p",
		`{action: DENY, rules: [{to: [{operation: {hosts: [no.shop]}}]}, {to: [{operation: {paths: ["/x/%2Fb"]}}]}, {to: [{operation: {notPaths: ["*b"]}}]}]}`)) {
		if n := testing.AllocsPerRun(100, func() { p.Decide(conn, req) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

package tool

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/cmd/internal/explain"
)

const testHelp = `Judge the cases of DIR/tests/*.yaml (and of --cases FILE) by the objects of DIR, as 'signet why -f DIR'
would, and say which are not as expected. Nothing needs to run. 'signet up' and 'signet validate' read DIR
without its subdirectories, so that cases are not in their way.

A file holds cases, as documents, as a list or as a list below "cases":

  - name: reports stays out of the ledger
    request:
      from: shop/reports              # NAMESPACE/WORKLOAD, spiffe://... or plaintext
      to: bank/ledger                 # NAMESPACE/WORKLOAD[:PORT]
      method: GET                     # the default
      path: /accounts/7
      host: ledger.bank.mesh          # default: the service that the port serves
      headers: {x-tester: "yes"}      # a value or a list of values
      sourceIP: 10.0.0.9              # default: the workload's address
      body: '{"amount": 7}'
      claims: {iss: https://idp.example, sub: ann}     # of a token that counts as verified, or
      # token: eyJhbGciOi...                           # one that is verified by the inline keys
    expect:
      decision: deny                  # allow or deny: required
      by: AuthorizationPolicy/bank/storefront-only     # with [RULE] or without, or {kind, namespace, name, rule};
                                                       # KIND/none: no rule of the ALLOW policies matched
      status: 403
      path: /accounts/7               # canonical
      route: default                  # on the caller's side

Unknown fields are refused with their position. External authorizers are not asked and count as if they
allowed; keys of a jwksUri are not fetched.

Exit codes: 0 all cases passed, 1 some failed, 2 a mistake in flags, files, objects or cases.`

func newTest() *cobra.Command {
	var trustDomain, junit string
	var files []string
	c := &cobra.Command{
		Use:   "test DIR",
		Short: "Run cases written as YAML against policies",
		Long:  testHelp,
		Example: `  signet test deploy/demo
  signet test --junit report.xml --cases more.yaml ./mesh`,
		Args:              cli.Args(cobra.ExactArgs(1)),
		ValidArgsFunction: cli.Directories,
		RunE: func(c *cobra.Command, a []string) error {
			if err := checkTrustDomain(trustDomain); err != nil {
				return err
			}
			m, cases, err := explain.LoadCases(a[0], trustDomain, files)
			if err != nil {
				return cli.Mistake(err)
			}
			results := explain.RunCases(c.Context(), m, cases)
			if junit != "" {
				if err := explain.WriteJUnitFile(junit, results); err != nil {
					return cli.Mistake(fmt.Errorf("writing --junit: %w", err))
				}
			}
			if err := explain.WriteResults(c.OutOrStdout(), results); err != nil {
				return err
			}
			if explain.Failed(results) > 0 {
				return cli.Exit(cli.ExitFailure)
			}
			return nil
		},
	}
	f := c.Flags()
	addTrustDomain(c, &trustDomain)
	f.StringArrayVar(&files, "cases", nil, "further file of cases; may be repeated")
	f.StringVar(&junit, "junit", "", "file that takes a report as JUnit's XML")
	return c
}

package explain

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// asker asks one workload. An error that wraps errNoSidecar or errAway leaves its part out; any other is the end.
type asker func(ctx context.Context, workload string, q *Question) (Reply, error)

// errAway says that a workload's sidecar could not be asked.
var errAway = errors.New("its sidecar can't be asked")

// Unknown is the decision where the server could not be asked.
const Unknown = "unknown"

// assemble asks the server which port is meant, the caller for its route, and then the server for its judgement of what the
// caller's sidecar forwards.
func assemble(ctx context.Context, q *Question, ask asker) (*Answer, error) {
	from, err := parseFrom(q.From)
	if err != nil {
		return nil, err
	}
	to, _, err := splitTo(q.To)
	if err != nil {
		return nil, err
	}
	if _, err := parseAddr(q.SourceIP); err != nil {
		return nil, err
	}
	server, err := ask(ctx, to, q)
	away := errors.Is(err, errAway)
	if err != nil && !away {
		return nil, fmt.Errorf("server: %w", err)
	}
	asked := *q
	if s := server.Server; s != nil {
		if s.Mistake != "" {
			return nil, errors.New(s.Mistake)
		}
		asked.To = to + ":" + strconv.Itoa(int(s.Port))
	}
	var notes []string
	if away {
		notes = append(notes, "the judgement is missing: "+err.Error())
	}
	r, forwarded, more, err := askRoute(ctx, from, &asked, ask)
	if err != nil {
		return nil, err
	}
	notes = append(notes, more...)
	if away {
		a := conclude(&asked, r, nil, notes)
		a.Decision = Unknown
		return a, nil
	}
	if server, err = ask(ctx, to, forwarded); err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	if server.Server == nil {
		return nil, fmt.Errorf("server %s gave no answer", to)
	}
	if server.Server.Mistake != "" {
		return nil, errors.New(server.Server.Mistake)
	}
	return conclude(&asked, r, server.Server, notes), nil
}

// askRoute asks the caller's sidecar, and says what the server gets of it.
func askRoute(ctx context.Context, from caller, q *Question, ask asker) (*RouteAnswer, *Question, []string, error) {
	forwarded := *q
	forwarded.Forwarded = true
	if from.workload == "" {
		return nil, &forwarded, nil, nil
	}
	reply, err := ask(ctx, from.workload, q)
	switch {
	case errors.Is(err, errNoSidecar):
		forwarded.Plain = true
		return nil, &forwarded, []string{"the caller has no sidecar: it calls in plaintext"}, nil
	case errors.Is(err, errAway):
		return nil, &forwarded, []string{"the route is missing: " + err.Error()}, nil
	case err != nil:
		return nil, nil, nil, fmt.Errorf("caller: %w", err)
	case reply.Route == nil:
		return nil, nil, nil, fmt.Errorf("caller %s gave no answer", from.workload)
	case reply.Route.Mistake != "":
		return nil, nil, nil, errors.New(reply.Route.Mistake)
	}
	r := reply.Route
	if forwarded.SourceIP == "" {
		forwarded.SourceIP = r.Address
	}
	if forwarded.Host == "" {
		forwarded.Host = r.Host
	}
	if !r.Reaches {
		return r.hidden(), &forwarded, []string{r.instead(q.To)}, nil
	}
	forwarded.Plain, forwarded.SNI = !r.MTLS, r.SNI
	if f := r.Forwarded; f != nil {
		forwarded.Method, forwarded.Host, forwarded.Path, forwarded.Headers = f.Method, f.Host, f.Path, f.Headers
	}
	return r.hidden(), &forwarded, nil, nil
}

// hidden is the answer without credentials.
func (r *RouteAnswer) hidden() *RouteAnswer {
	out := *r
	if r.Forwarded != nil {
		f := *r.Forwarded
		f.Headers = redact(f.Headers)
		out.Forwarded = &f
	}
	return &out
}

// instead says what becomes of a request that does not reach the server that was asked about.
func (r *RouteAnswer) instead(to string) string {
	does := "has no route for it"
	switch r.Outcome {
	case outcomeForward:
		does = "sends it elsewhere"
	case outcomeRedirect:
		does = fmt.Sprintf("answers %d with location %s", r.Status, r.Location)
	case outcomeDirect:
		does = fmt.Sprintf("answers %d by itself", r.Status)
	case outcomeUnknown, outcomePassthrough:
		does = "does not know the host"
	case outcomeBadPath:
		does = "refuses its path"
	case outcomeNotHTTP:
		does = "has no HTTP route for it"
	}
	return fmt.Sprintf("this request does not reach %s: the sidecar of %s %s; the decision is what it would be if it did", to, r.Workload, does)
}

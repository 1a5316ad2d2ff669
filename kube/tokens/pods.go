package tokens

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// alive checks that the pod of a token exists and has the token's service account. A pod that the informers do not know,
// or know another of that name, may be milliseconds old: it is waited for, and then the API server is asked.
func (j *Judge) alive(ctx context.Context, b bearer) error {
	if done, err := j.known(b); done {
		return err
	}
	select {
	case j.waiting <- struct{}{}:
		defer func() { <-j.waiting }()
	default:
		return refuse(reasonBusy, "%d tokens wait for their pods", maxWaiting)
	}
	timeout := time.NewTimer(j.cfg.PodWait)
	defer timeout.Stop()
	poll := time.NewTicker(podPoll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return refuse(reasonPodGone, "waiting for pod %q: %w", b.namespace+"/"+b.pod, ctx.Err())
		case <-poll.C:
			if done, err := j.known(b); done {
				return err
			}
			continue
		case <-timeout.C:
		}
		return j.ask(ctx, b)
	}
}

// known judges by what the informers know; done is false when that may change.
func (j *Judge) known(b bearer) (done bool, err error) {
	uid, sa, ok := j.cfg.Pods(b.namespace, b.pod)
	if !ok || uid != b.podUID {
		return false, nil
	}
	return true, b.has(sa)
}

// has refuses a pod with another service account. None can change it: such a token is not the API server's doing.
func (b bearer) has(sa string) error {
	if sa != b.serviceAccount {
		return refuse(reasonPodAccount, "pod %q has service account %q, the token is of %q", b.namespace+"/"+b.pod, sa, b.serviceAccount)
	}
	return nil
}

func (j *Judge) ask(ctx context.Context, b bearer) error {
	name := b.namespace + "/" + b.pod
	if !j.asking.Allow() {
		return refuse(reasonPodGone, "pod %q with uid %q is not known here", name, b.podUID)
	}
	j.stats.pods.Inc()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pod, err := j.cfg.Client.CoreV1().Pods(b.namespace).Get(ctx, b.pod, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return refuse(reasonPodGone, "there is no pod %q", name)
	case err != nil:
		return refuse(reasonAPI, "asking for pod %q: %w", name, err)
	case string(pod.UID) != b.podUID:
		return refuse(reasonPodGone, "pod %q has uid %q now, the token is bound to %q", name, pod.UID, b.podUID)
	}
	// The API server defaults the name where a pod has none.
	return b.has(pod.Spec.ServiceAccountName)
}

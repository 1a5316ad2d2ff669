package inject

import (
	"maps"
	"path"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/proxy/capture"
)

// tokenSeconds is the lifetime of the sidecar's token; kubelet writes a new one at 80 % of it.
const tokenSeconds = 43200

// runBytes is the limit of the sidecar's directory in memory: sockets and its last good configuration.
const runBytes = "64Mi"

func ref[T any](v T) *T { return &v }

// captureContainer writes the nftables rules, and is the only one with a capability and as user 0.
func (c *Config) captureContainer(w *wishes) corev1.Container {
	return corev1.Container{
		Name: kube.CaptureContainer, Image: c.captureImage(), ImagePullPolicy: c.ImagePullPolicy,
		Args: w.capture.args(w.dns), Resources: w.resources,
		SecurityContext: &corev1.SecurityContext{
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN"}},
			Privileged:               ref(false),
			RunAsUser:                ref(int64(0)),
			RunAsGroup:               ref(int64(0)),
			RunAsNonRoot:             ref(false),
			ReadOnlyRootFilesystem:   ref(true),
			AllowPrivilegeEscalation: ref(false),
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
}

// environment is what the sidecar's environment depends on beside the Config.
type environment struct{ proxy, probers, prometheus string }

func (c *Config) proxyContainer(pod *corev1.Pod, w *wishes, e environment) corev1.Container {
	p := corev1.Container{
		Name: kube.ProxyContainer, Image: w.image, ImagePullPolicy: c.ImagePullPolicy,
		Args: []string{"pod"}, Env: c.env(pod, w, e), Resources: *w.resources.DeepCopy(),
		Ports:        []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: capture.MetricsPort, Protocol: corev1.ProtocolTCP}},
		VolumeMounts: append(ownMounts(), w.mounts...),
		StartupProbe: &corev1.Probe{ProbeHandler: readyHandler(), PeriodSeconds: 1, TimeoutSeconds: 3, FailureThreshold: 600},
		ReadinessProbe: &corev1.Probe{ProbeHandler: readyHandler(), InitialDelaySeconds: w.ready[0], PeriodSeconds: w.ready[1],
			TimeoutSeconds: 3, FailureThreshold: w.ready[2]},
		SecurityContext: &corev1.SecurityContext{
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			Privileged:               ref(false),
			RunAsUser:                ref(uid),
			RunAsGroup:               ref(uid),
			RunAsNonRoot:             ref(true),
			ReadOnlyRootFilesystem:   ref(true),
			AllowPrivilegeEscalation: ref(false),
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	if w.native {
		// kubelet starts what follows when the startup probe has passed, and ends a native sidecar after the programs.
		p.RestartPolicy = ref(corev1.ContainerRestartPolicyAlways)
	} else if h := w.proxy.HoldApplicationUntilProxyStarts; h == nil || h.Value {
		// kubelet starts the next container when this hook is done.
		p.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/signet-proxy", "wait"}}}}
	}
	return p
}

func readyHandler() corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz/ready", Port: intstr.FromInt32(capture.ReadyPort), Scheme: corev1.URISchemeHTTP}}
}

func (c *Config) env(pod *corev1.Pod, w *wishes, e environment) []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path, APIVersion: "v1"}}}
	}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		grace = *s
	}
	return []corev1.EnvVar{
		field("POD_NAME", "metadata.name"),
		field("POD_NAMESPACE", "metadata.namespace"),
		field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
		field("INSTANCE_IPS", "status.podIPs"),
		{Name: "SIGNET_CONTROL", Value: c.controlAddress()},
		{Name: "TRUST_DOMAIN", Value: c.TrustDomain},
		{Name: "CLUSTER_DOMAIN", Value: c.ClusterDomain},
		{Name: "SIGNET_REVISION", Value: c.Revision},
		{Name: "SIGNET_LOG_LEVEL", Value: w.logLevel},
		{Name: "SIGNET_DNS", Value: strconv.FormatBool(w.dns)},
		{Name: "SIGNET_NATIVE", Value: strconv.FormatBool(w.native)},
		{Name: "SIGNET_GRACE_SECONDS", Value: strconv.FormatInt(grace, 10)},
		{Name: "PROXY_CONFIG", Value: literal(e.proxy)},
		{Name: "SIGNET_PROBERS", Value: literal(e.probers)},
		{Name: "SIGNET_PROMETHEUS", Value: literal(e.prometheus)},
	}
}

// ownMounts are the sidecar's own. The volumes are projected: kubelet's files are readable by every user (0644) or, where the pod has
// an fsGroup, by that group, which all of the pod's containers have (pkg/volume/projected, KEP-2451). So user 1337 reads its token
// either way, and the pod's fsGroup stays as it is.
func ownMounts() []corev1.VolumeMount {
	return []corev1.VolumeMount{
		{Name: kube.TokenVolume, MountPath: path.Dir(kube.TokenPath), ReadOnly: true},
		{Name: kube.BundleVolume, MountPath: path.Dir(kube.BundlePath), ReadOnly: true},
		{Name: kube.RunVolume, MountPath: kube.RunPath},
		{Name: kube.PodInfoVolume, MountPath: kube.PodInfoPath, ReadOnly: true},
	}
}

func (c *Config) volumes() []corev1.Volume {
	// defaultMode is kubelet's default, said so that a pod made by hand and one made by the webhook are the same.
	mode := ref(corev1.ProjectedVolumeSourceDefaultMode)
	item := func(field string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: path.Base(field), FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata." + field, APIVersion: "v1"}}
	}
	return []corev1.Volume{
		{Name: kube.TokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: mode,
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: kube.Audience, ExpirationSeconds: ref(int64(tokenSeconds)), Path: path.Base(kube.TokenPath)}}}}}},
		{Name: kube.BundleVolume, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{DefaultMode: mode,
			LocalObjectReference: corev1.LocalObjectReference{Name: c.BundleConfigMap},
			Items:                []corev1.KeyToPath{{Key: kube.BundleKey, Path: path.Base(kube.BundlePath)}}}}},
		{Name: kube.RunVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: ref(runLimit())}}},
		{Name: kube.PodInfoVolume, VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: mode,
			Items: []corev1.DownwardAPIVolumeFile{item("labels"), item("annotations")}}}},
	}
}

func copyOf(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}

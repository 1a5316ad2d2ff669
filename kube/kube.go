// Package kube holds the words that Signet and Kubernetes share: names of objects, labels, annotations, volumes and paths.
// It does no I/O.
package kube

// Names of what Signet keeps in its own namespace and publishes to others.
const (
	SystemNamespace = "signet-system"
	// Deployment, Service and ServiceAccount of the control plane.
	ControlPlane = "signetd"
	// RootsSecret keeps the CA's root slots; PluggedSecret is the operator's own CA (Istio's name and file names, or cert-manager's).
	RootsSecret   = "signet-ca"
	PluggedSecret = "cacerts"
	// BundleConfigMap carries the trust bundle in every namespace of the mesh, under BundleKey; IstioBundleConfigMap is Istio's
	// name for it, published only where no Istio lives.
	BundleConfigMap      = "signet-ca-root-cert"
	IstioBundleConfigMap = "istio-ca-root-cert"
	BundleKey            = "root-cert.pem"
	// LeaderLease is held by the one replica that writes status, publishes bundles and signs CertificateSigningRequests.
	LeaderLease = "signetd-leader"
	// UsedConfigMap is the prefix of the ConfigMaps (one for each namespace of the mesh, in SystemNamespace) that keep which
	// hosts each workload uses: UsedConfigMap + NAMESPACE, a key for each workload, a host a line.
	UsedConfigMap = "signet-used."
	// SignerName is that of the CertificateSigningRequests and ClusterTrustBundles that are ours.
	SignerName = "signet.dev/workload"
	// ClusterTrustBundle is named SIGNER:NAME with the slash as a colon (KEP-3257).
	ClusterTrustBundle = "signet.dev:workload:root"
)

// Labels and annotations, Istio's wherever Istio has one.
const (
	LabelInjection   = "istio-injection"         // on namespaces: enabled, disabled
	LabelRevision    = "istio.io/rev"            // on namespaces and pods: signet, or what --revision says
	LabelInject      = "sidecar.istio.io/inject" // on pods: "true", "false"; the annotation of the same name counts where there is no label
	AnnotationStatus = "sidecar.istio.io/status" // on injected pods: JSON {"revision", "initContainers", "containers", "volumes"}
	DefaultRevision  = "signet"
	// LabelManagedBy with the value ManagedBy is on what the control plane makes, so that it knows its own again.
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedBy      = "signet"
)

// Audiences of service-account tokens that the CA takes.
const (
	Audience      = "signet-ca"
	IstioAudience = "istio-ca"
)

// Names and paths inside an injected pod.
const (
	CaptureContainer = "signet-capture" // the init container that writes the nftables rules
	ProxyContainer   = "istio-proxy"    // Istio's name, which dashboards, kubectl logs habits and annotations know
	TokenVolume      = "signet-token"
	TokenPath        = "/var/run/secrets/tokens/signet-token"
	BundleVolume     = "signet-ca-root"
	BundlePath       = "/var/run/secrets/signet/root-cert.pem"
	RunVolume        = "signet-run" // emptyDir, medium Memory
	RunPath          = "/var/run/signet"
	// PodInfoVolume carries labels and annotations by the downward API.
	PodInfoVolume = "signet-podinfo"
	PodInfoPath   = "/etc/signet/pod"
)

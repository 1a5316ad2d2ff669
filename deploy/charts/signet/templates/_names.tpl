{{/* suffix tells the revisions apart: nothing for the revision signet. */}}
{{- define "signet.suffix" -}}
{{- if ne .Values.revision "signet" }}-{{ .Values.revision }}{{ end -}}
{{- end }}

{{- define "signet.controlPlane" -}}
signetd{{ include "signet.suffix" . }}
{{- end }}

{{- define "signet.settings" -}}
signet{{ include "signet.suffix" . }}
{{- end }}

{{- define "signet.injector" -}}
signet-injector{{ include "signet.suffix" . }}
{{- end }}

{{- define "signet.validator" -}}
signet-validator{{ include "signet.suffix" . }}
{{- end }}

{{- define "signet.rootNamespace" -}}
{{ .Values.rootNamespace | default .Release.Namespace }}
{{- end }}

{{- define "signet.tag" -}}
{{ .Values.tag | default .Chart.AppVersion }}
{{- end }}

{{/* bare says whether labels that name no revision are ours. */}}
{{- define "signet.bare" -}}
{{- if or .Values.alone .Values.takeOver }}true{{ end -}}
{{- end }}

{{- define "signet.selector" -}}
app.kubernetes.io/name: signetd
app.kubernetes.io/instance: {{ .Values.revision }}
{{- end }}

{{- define "signet.labels" -}}
{{ include "signet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: signet
istio.io/rev: {{ .Values.revision }}
{{- end }}

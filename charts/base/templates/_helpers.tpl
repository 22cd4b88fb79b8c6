{{- /* The values in effect: what the user set, also under `defaults`, over the chart's own. */ -}}
{{- define "base.values" -}}
{{- $given := mergeOverwrite (deepCopy (default dict .Values.defaults)) (omit .Values "_internal_defaults_do_not_set" "defaults") -}}
{{- mergeOverwrite (deepCopy .Values._internal_defaults_do_not_set) $given | toYaml -}}
{{- end -}}

{{- define "base.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

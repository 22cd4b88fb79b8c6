{{- /* The values in effect: what the user set, also under `defaults`, over `global`, which a chart that
     depends on this one sets, over the chart's own. */ -}}
{{- define "gateway.values" -}}
{{- $given := mergeOverwrite (deepCopy (default dict .Values.defaults)) (omit .Values "_internal_defaults_do_not_set" "defaults") -}}
{{- $v := mergeOverwrite (deepCopy .Values._internal_defaults_do_not_set) (deepCopy (default dict .Values.global)) $given -}}
{{- if not $v.name -}}
{{- $_ := set $v "name" .Release.Name -}}
{{- end -}}
{{- if not $v.serviceAccount.name -}}
{{- $_ := set $v.serviceAccount "name" (ternary $v.name "default" $v.serviceAccount.create) -}}
{{- end -}}
{{- $v | toYaml -}}
{{- end -}}

{{- /* Labels of every object; takes a list of the values in effect and the root. */ -}}
{{- define "gateway.labels" -}}
{{- $v := index . 0 -}}
{{- $root := index . 1 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{ include "gateway.selector" $v }}
app.kubernetes.io/name: {{ $v.name | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- range $key, $value := omit $v.labels "app" "istio" }}
{{ $key }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "gateway.selector" -}}
app: {{ default .name .labels.app | quote }}
istio: {{ default (trimPrefix "istio-" .name) .labels.istio | quote }}
{{- end -}}

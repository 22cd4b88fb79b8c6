{{- /* The values in effect: what the user set, also under `defaults`, over the chart's own. */ -}}
{{- define "base.values" -}}
{{- $given := mergeOverwrite (deepCopy (default dict .Values.defaults)) (omit .Values "_internal_defaults_do_not_set" "defaults") -}}
{{- $global := default dict $given.global -}}
{{- $profile := coalesce $given.profile $global.profile "default" -}}
{{- if not (has $profile (list "default" "minimal" "empty" "demo" "preview" "remote" "ambient" "stable")) -}}
{{- fail (printf "unknown profile %s" $profile) -}}
{{- end -}}
{{- if or (eq $profile "stable") (default dict $given.experimental).stableValidationPolicy -}}
{{- fail "experimental.stableValidationPolicy: there is no policy here that keeps objects to the stable fields" -}}
{{- end -}}
{{- mergeOverwrite (deepCopy .Values._internal_defaults_do_not_set) $given | toYaml -}}
{{- end -}}

{{- /* Labels of every object; takes what it belongs to, and the root. */ -}}
{{- define "base.labels" -}}
{{- $root := index . 1 -}}
app.kubernetes.io/name: {{ index . 0 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- /*
The values in effect, weakest first: the chart's own, the profile's, what the user set under `defaults`, at the top level,
and under `pilot`.
*/ -}}
{{- define "istiod.values" -}}
{{- $defaults := deepCopy (default dict .Values.defaults) -}}
{{- $user := mergeOverwrite $defaults (omit .Values "_internal_defaults_do_not_set" "defaults") -}}
{{- $given := mergeOverwrite (omit $user "pilot") (default dict $user.pilot) -}}
{{- $global := default dict $given.global -}}
{{- $named := coalesce $given.profile $global.profile "default" -}}
{{- if eq $named "ambient" -}}
{{- fail "profile ambient: there is no ambient mode here (no ztunnel, no waypoints)" -}}
{{- else if eq $named "stable" -}}
{{- fail "profile stable: there is no policy here that keeps objects to the stable fields" -}}
{{- else if not (has $named (list "default" "minimal" "empty" "demo" "preview" "remote")) -}}
{{- fail (printf "unknown profile %s" $named) -}}
{{- end -}}
{{- $platform := coalesce $given.platform $global.platform "" -}}
{{- if and $platform (not (has $platform (list "gke" "k3d" "k3s" "microk8s" "minikube" "openshift"))) -}}
{{- fail (printf "unknown platform %s" $platform) -}}
{{- end -}}
{{- $compatible := toString (default "" $given.compatibilityVersion) -}}
{{- if and $compatible (not (has $compatible (list "1.25" "1.26" "1.27" "1.28" "1.29" "1.30"))) -}}
{{- fail (printf "unknown compatibility version %s" $compatible) -}}
{{- end -}}
{{- if eq (default "" $global.pilotCertProvider) "kubernetes" -}}
{{- fail "pilotCertProvider=kubernetes is not supported" -}}
{{- end -}}
{{- if (default dict $given.experimental).stableValidationPolicy -}}
{{- fail "experimental.stableValidationPolicy: there is no policy here that keeps objects to the stable fields" -}}
{{- end -}}
{{- $profile := .Files.Get (printf "files/profile-%s.yaml" $named) | fromYaml -}}
{{- $v := mergeOverwrite (deepCopy .Values._internal_defaults_do_not_set) $profile $given -}}
{{- $_ := set $v "platform" $platform -}}
{{- if hasKey $v "istio_cni" -}}
{{- $_ := set $v "cni" (mergeOverwrite $v.cni $v.istio_cni) -}}
{{- end -}}
{{- $hub := default "" $v.global.hub -}}
{{- $istio := or (eq $hub "") (contains "istio" $hub) -}}
{{- if $istio -}}
{{- $_ := set $v.global "hub" "docker.io/pilotfish" -}}
{{- end -}}
{{- if or $istio (not $v.global.tag) -}}
{{- $_ := set $v.global "tag" .Chart.AppVersion -}}
{{- end -}}
{{- $v | toYaml -}}
{{- end -}}

{{- /* The suffix of names: -<revision>, or nothing for the default one. */ -}}
{{- define "istiod.suffix" -}}
{{- if and .revision (ne .revision "default") -}}-{{ .revision }}{{- end -}}
{{- end -}}

{{- /* Whether the control plane runs in this cluster; takes the values in effect. */ -}}
{{- define "istiod.here" -}}
{{ or (not .istiodRemote.enabled) .istiodRemote.enabledLocalInjectorIstiod }}
{{- end -}}

{{- /* How an address is written: IPv4, IPv6, or empty for a name. */ -}}
{{- define "istiod.family" -}}
{{- if regexMatch "^([0-9]*\\.){3}[0-9]*$" . }}IPv4{{ else if regexMatch "^([0-9a-fA-F]*:)+[0-9a-fA-F]*$" . }}IPv6{{ end }}
{{- end -}}

{{- define "istiod.revision" -}}
{{ default "default" .revision }}
{{- end -}}

{{- define "istiod.image" -}}
{{- $image := default "pilotfishd" .image -}}
{{- if contains "/" $image -}}
{{ $image }}
{{- else -}}
{{- $hub := default .global.hub .hub -}}
{{- $istio := contains "istio" $hub -}}
{{ ternary .global.hub $hub $istio }}/{{ ternary "pilotfishd" $image (eq $image "pilot") }}:{{ ternary .global.tag (default .global.tag .tag) $istio }}
{{- with default .global.variant .variant }}-{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{- /* Labels of every object; takes a list of the values in effect and the root. */ -}}
{{- define "istiod.labels" -}}
{{- $v := index . 0 -}}
{{- $root := index . 1 -}}
app: istiod
istio.io/rev: {{ include "istiod.revision" $v | quote }}
operator.istio.io/component: Pilot
release: {{ $root.Release.Name }}
app.kubernetes.io/name: istiod
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- define "istiod.selector" -}}
app: istiod
{{- if include "istiod.suffix" . }}
istio.io/rev: {{ .revision | quote }}
{{- else }}
istio: pilot
{{- end }}
{{- end -}}

{{- /* The mesh's configuration, before what the user sets in meshConfig. */ -}}
{{- define "istiod.mesh" -}}
{{- $v := index . 0 -}}
{{- $root := index . 1 -}}
trustDomain: cluster.local
rootNamespace: {{ $root.Release.Namespace }}
defaultConfig:
  discoveryAddress: {{ printf "istiod%s.%s.svc:15012" (include "istiod.suffix" $v) $root.Release.Namespace }}
  {{- with $v.global.meshID }}
  meshId: {{ . | quote }}
  {{- end }}
  {{- if eq $v.global.proxy.tracer "zipkin" }}
  tracing:
    zipkin:
      address: {{ default (printf "zipkin.%s:9411" $root.Release.Namespace) $v.global.tracer.zipkin.address }}
  {{- end }}
  {{- with $v.global.variant }}
  image:
    imageType: {{ . }}
  {{- end }}
{{- if not $v.meshConfig.defaultProviders }}
defaultProviders:
  {{- if and $v.telemetry.enabled $v.telemetry.v2.enabled }}
  metrics:
    {{- if $v.telemetry.v2.prometheus.enabled }}
    - prometheus
    {{- end }}
    {{- if and $v.telemetry.v2.stackdriver $v.telemetry.v2.stackdriver.enabled }}
    - stackdriver
    {{- end }}
  {{- if and $v.telemetry.v2.stackdriver $v.telemetry.v2.stackdriver.enabled }}
  accessLogging:
    - stackdriver
  {{- end }}
  {{- else }}
  metrics: []
  {{- end }}
{{- end }}
{{- end -}}

{{- /* Webhooks for one revision or tag; takes name, default (whether it is also the default one), values and root. */ -}}
{{- define "istiod.injectors" -}}
{{- $client := include "istiod.client" (list .values .root) -}}
{{- $common := include "istiod.injector" (list .values $client) -}}
{{- $absent := list (dict "key" "istio-injection" "operator" "DoesNotExist") (dict "key" "istio.io/rev" "operator" "DoesNotExist") -}}
{{- $notOptedOut := dict "key" "sidecar.istio.io/inject" "operator" "NotIn" "values" (list "false") }}
  - name: rev.namespace.sidecar-injector.istio.io
    {{- $common | nindent 4 }}
    namespaceSelector:
      matchExpressions:
        - key: istio.io/rev
          operator: In
          values: [{{ .name | quote }}]
        - key: istio-injection
          operator: DoesNotExist
    objectSelector:
      matchExpressions:
        {{- list $notOptedOut | toYaml | nindent 8 }}
  - name: rev.object.sidecar-injector.istio.io
    {{- $common | nindent 4 }}
    namespaceSelector:
      matchExpressions:
        {{- $absent | toYaml | nindent 8 }}
    objectSelector:
      matchExpressions:
        {{- list $notOptedOut | toYaml | nindent 8 }}
        - key: istio.io/rev
          operator: In
          values: [{{ .name | quote }}]
{{- if .default }}
  - name: namespace.sidecar-injector.istio.io
    {{- $common | nindent 4 }}
    namespaceSelector:
      matchExpressions:
        - key: istio-injection
          operator: In
          values: [enabled]
    objectSelector:
      matchExpressions:
        {{- list $notOptedOut | toYaml | nindent 8 }}
  - name: object.sidecar-injector.istio.io
    {{- $common | nindent 4 }}
    namespaceSelector:
      matchExpressions:
        {{- $absent | toYaml | nindent 8 }}
    objectSelector:
      matchExpressions:
        - key: sidecar.istio.io/inject
          operator: In
          values: ["true"]
        - key: istio.io/rev
          operator: DoesNotExist
{{- if .values.sidecarInjectorWebhook.enableNamespacesByDefault }}
  - name: auto.sidecar-injector.istio.io
    {{- $common | nindent 4 }}
    namespaceSelector:
      matchExpressions:
        {{- $absent | toYaml | nindent 8 }}
        - key: kubernetes.io/metadata.name
          operator: NotIn
          values: [kube-system, kube-public, kube-node-lease, local-path-storage]
    objectSelector:
      matchExpressions:
        - key: sidecar.istio.io/inject
          operator: DoesNotExist
        - key: istio.io/rev
          operator: DoesNotExist
{{- end }}
{{- end }}
{{- end -}}

{{- define "istiod.client" -}}
{{- $v := index . 0 -}}
{{- $root := index . 1 -}}
{{- if $v.istiodRemote.injectionURL -}}
url: {{ $v.istiodRemote.injectionURL | quote }}
{{- else -}}
service:
  name: istiod{{ include "istiod.suffix" $v }}
  namespace: {{ $root.Release.Namespace }}
  path: {{ $v.istiodRemote.injectionPath | quote }}
  port: 443
{{- end }}
{{- with $v.istiodRemote.injectionCABundle }}
caBundle: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "istiod.injector" -}}
{{- $v := index . 0 -}}
clientConfig:
  {{- index . 1 | nindent 2 }}
rules:
  - operations: [CREATE]
    apiGroups: [""]
    apiVersions: [v1]
    resources: [pods]
failurePolicy: Fail
reinvocationPolicy: {{ $v.sidecarInjectorWebhook.reinvocationPolicy | quote }}
sideEffects: None
admissionReviewVersions: [v1]
{{- end -}}

{{- /* The name of the injector's MutatingWebhookConfiguration. */ -}}
{{- define "istiod.webhook" -}}
{{- $v := index . 0 -}}
{{- $root := index . 1 -}}
istio-sidecar-injector{{ include "istiod.suffix" $v }}{{ if ne $root.Release.Namespace "istio-system" }}-{{ $root.Release.Namespace }}{{ end }}
{{- end -}}

{{- /* The Service of a revision or a tag: name, labels that say which, and selector. */ -}}
{{- define "istiod.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    istio: pilot
    {{- with .tag }}
    istio.io/tag: {{ . | quote }}
    {{- end }}
    {{- include "istiod.labels" (list .values .root) | nindent 4 }}
  {{- with .values.serviceAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .values.ipFamilyPolicy }}
  ipFamilyPolicy: {{ . }}
  {{- end }}
  {{- with .values.ipFamilies }}
  ipFamilies:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - port: 15010
      name: grpc-xds
      protocol: TCP
    - port: 15012
      name: https-dns
      protocol: TCP
    - port: 443
      name: https-webhook
      targetPort: 15017
      protocol: TCP
    - port: 15014
      name: http-monitoring
      protocol: TCP
  selector:
    {{- include "istiod.selector" .values | nindent 4 }}
{{- end -}}

{{- define "gstack.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The services of a release. Whatever they have in common is rendered by going over these. */}}
{{- define "gstack.services" -}}
gateway translator auth
{{- end -}}

{{/* Never changes for a release: selectors cannot be changed. */}}
{{- define "gstack.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* name, namespace and labels of an object: (dict "root" $ "component" "gateway" "suffix" "gateway") */}}
{{- define "gstack.metadata" -}}
name: {{ include "gstack.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "gstack.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: gstack
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels of pods: without versions of the chart, which would restart them for nothing. */}}
{{- define "gstack.podLabels" -}}
{{ include "gstack.selector" . }}
{{- with dig "podLabels" dict .values }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "gstack.image" -}}
{{- $common := .root.Values.image -}}
{{- with $common.registry }}{{ . }}/{{ end -}}
{{- .image.repository }}:{{ .image.tag | default $common.tag | default .root.Chart.AppVersion -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* Name of the Secret of a service, or of the database's password. */}}
{{- define "gstack.secretName" -}}
{{- index .root.Values.secrets .component | default (printf "%s-%s" (include "gstack.fullname" .root) .component) -}}
{{- end -}}

{{- define "gstack.host" -}}
{{- printf "%s-%s.%s.svc.%s" (include "gstack.fullname" .root) .component .root.Release.Namespace .root.Values.clusterDomain -}}
{{- end -}}

{{- define "gstack.cloudstackUrl" -}}
{{- if .Values.demo.enabled -}}
http://{{ include "gstack.host" (dict "root" . "component" "simulator") }}:5003/client/api
{{- else -}}
{{- required "cloudstack.url must be set: the API address of CloudStack, such as https://cloud.example.org/client/api (or try demo.enabled=true)" .Values.cloudstack.url -}}
{{- end -}}
{{- end -}}

{{/* What clients call the endpoint. A trial is reached as its notes say. */}}
{{- define "gstack.publicUrl" -}}
{{- $ingress := .Values.ingress -}}
{{- if or .Values.publicUrl (not .Values.demo.enabled) -}}
{{- required "publicUrl must be set: scheme and host of the endpoint, as clients call it, such as https://gce.example.org" .Values.publicUrl -}}
{{- else if and $ingress.enabled $ingress.hosts -}}
{{ ternary "http" "https" (empty $ingress.tls) }}://{{ first $ingress.hosts }}
{{- else -}}
{{ ternary "http" "https" (empty .Values.gateway.tls.secretName) }}://127.0.0.1:5000
{{- end -}}
{{- end -}}

{{- define "gstack.terminationSeconds" -}}
{{- if eq .component "gateway" -}}
{{- add (ceil .values.drainSeconds) 55 -}}
{{- else -}}
60
{{- end -}}
{{- end -}}

{{/* What Pod Security "restricted" asks of a pod, and what we add to it. */}}
{{- define "gstack.podSecurity" -}}
automountServiceAccountToken: false
# Else Kubernetes sets variables such as GSTACK_GATEWAY_PORT, which look like settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  fsGroup: {{ . }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "gstack.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where and with what pods of a service run. */}}
{{- define "gstack.placement" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .root.Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Over machines and zones; where that is impossible, pods start nevertheless. */}}
{{- define "gstack.spread" -}}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "gstack.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end -}}

{{/* Startup, liveness and readiness. Liveness asks the process only: a CloudStack or a database that is away is not
     mended by a restart. A gateway has started when it reaches translators and auth, so that one with a wrong
     configuration takes over from nobody. Kubernetes' gRPC probes speak no TLS, so with mTLS the management port is asked. */}}
{{- define "gstack.probes" -}}
{{- $port := ternary 5001 5002 (eq .component "translator") -}}
{{- $startup := dict "httpGet" (dict "path" "/healthz" "port" "metrics") -}}
{{- $liveness := dict "httpGet" (dict "path" "/healthz" "port" "metrics") -}}
{{- $readiness := dict "httpGet" (dict "path" "/readyz/grpc" "port" "metrics") -}}
{{- if eq .component "gateway" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (ne .values.tls.secretName "") -}}
{{- $startup = dict "httpGet" (dict "path" "/readyz" "port" "http" "scheme" $scheme) -}}
{{- $readiness = dict "httpGet" (dict "path" "/readyz/gateway" "port" "metrics") -}}
{{- else if not .root.Values.mtls.enabled -}}
{{- $startup = dict "grpc" (dict "port" $port) -}}
{{- $liveness = dict "grpc" (dict "port" $port "service" "liveness") -}}
{{- $readiness = dict "grpc" (dict "port" $port) -}}
{{- end -}}
startupProbe:
  {{- toYaml $startup | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 150
livenessProbe:
  {{- toYaml $liveness | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  {{- toYaml $readiness | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{- define "gstack.port" -}}
{{- get (dict "gateway" 5000 "translator" 5001 "auth" 5002 "simulator" 5003 "postgres" 5432) . -}}
{{- end -}}

{{/* What opens the database, for the service and for its migrations: names of files, never what is in them. */}}
{{- define "gstack.databaseEnv" -}}
GSTACK_STATE_DIR: /var/lib/gstack
GSTACK_SECRETS_DIR: /etc/gstack/secrets
GSTACK_SEALING_KEY_FILE: /etc/gstack/secrets/sealing.key
{{- if eq .component "auth" }}
GSTACK_MASTER_KEY_FILE: /etc/gstack/secrets/master.key
{{- end }}
{{- end -}}

{{- define "gstack.tlsFolder" -}}
{{- ternary "/etc/gstack/tls" "/etc/gstack/secrets" (eq .Values.mtls.source "certManager") -}}
{{- end -}}

{{/* Settings that one service has to itself. */}}
{{- define "gstack.env" -}}
{{- $upper := upper .component -}}
GSTACK_{{ $upper }}_LISTEN: 0.0.0.0:{{ include "gstack.port" .component }}
GSTACK_{{ $upper }}_METRICS_LISTEN: 0.0.0.0:9000
{{- if eq .component "gateway" }}
GSTACK_STATE_DIR: /var/lib/gstack
GSTACK_GATEWAY_DRAIN_SECONDS: {{ .values.drainSeconds | quote }}
{{- if .values.tls.secretName }}
GSTACK_GATEWAY_TLS_CERT: /etc/gstack/gateway-tls/tls.crt
GSTACK_GATEWAY_TLS_KEY: /etc/gstack/gateway-tls/tls.key
{{- end }}
{{- else }}
{{ include "gstack.databaseEnv" . }}
{{- end }}
{{- if eq .component "translator" }}
{{- if or .root.Values.cloudstack.ca.configMap .root.Values.cloudstack.ca.secret }}
GSTACK_CLOUDSTACK_CA: /etc/gstack/cloudstack-ca/{{ .root.Values.cloudstack.ca.key }}
{{- end }}
{{- if .root.Values.names }}
GSTACK_NAMES_FILE: /etc/gstack/names/names.toml
{{- end }}
{{- end }}
{{- if not .root.Values.mtls.enabled }}
GSTACK_SERVICES_KEY_FILE: /etc/gstack/secrets/services.key
{{- else }}
GSTACK_TLS_CERT: {{ include "gstack.tlsFolder" .root }}/tls.crt
GSTACK_TLS_KEY: {{ include "gstack.tlsFolder" .root }}/tls.key
GSTACK_TLS_CA: {{ include "gstack.tlsFolder" .root }}/ca.crt
{{- end }}
{{- end -}}

{{/* A map of settings as a list of variables. */}}
{{- define "gstack.asEnv" -}}
{{- $variables := list -}}
{{- range $name, $value := fromYaml . -}}
{{- $variables = append $variables (dict "name" $name "value" $value) -}}
{{- end -}}
{{- toYaml $variables -}}
{{- end -}}

{{/* Folders that every pod may write to, within bounds. */}}
{{- define "gstack.scratch" -}}
- name: tmp
  emptyDir: {sizeLimit: 128Mi}
- name: state
  emptyDir: {sizeLimit: 64Mi}
{{- end -}}

{{- define "gstack.scratchMounts" -}}
- name: tmp
  mountPath: /tmp
- name: state
  mountPath: /var/lib/gstack
{{- end -}}

{{/* A Secret as files that only the pod's group reads: (list volume secret) */}}
{{- define "gstack.secretVolume" -}}
- name: {{ first . }}
  secret:
    secretName: {{ last . }}
    defaultMode: 0440
{{- end -}}

{{/* Does the service need its Secret? A gateway has nothing secret but what the others know it by. */}}
{{- define "gstack.hasSecret" -}}
{{- if or (ne .component "gateway") (not .root.Values.mtls.enabled) (eq .root.Values.mtls.source "secret") -}}yes{{- end -}}
{{- end -}}

{{/* Volumes and mounts beside the scratch folders: {"volumes": [...], "mounts": [...]} */}}
{{- define "gstack.files" -}}
{{- $ca := .root.Values.cloudstack.ca -}}
{{- $folders := dict -}}
{{- $volumes := list -}}
{{- if include "gstack.hasSecret" . -}}
{{- $_ := set $folders "secrets" "/etc/gstack/secrets" -}}
{{- $volumes = append $volumes (include "gstack.secretVolume" (list "secrets" (include "gstack.secretName" .))) -}}
{{- end -}}
{{- if and .root.Values.mtls.enabled (eq .root.Values.mtls.source "certManager") -}}
{{- $_ := set $folders "tls" "/etc/gstack/tls" -}}
{{- $name := printf "%s-%s-tls" (include "gstack.fullname" .root) .component -}}
{{- $volumes = append $volumes (include "gstack.secretVolume" (list "tls" $name)) -}}
{{- end -}}
{{- if eq .component "gateway" -}}
{{- with .values.tls.secretName -}}
{{- $_ := set $folders "gateway-tls" "/etc/gstack/gateway-tls" -}}
{{- $volumes = append $volumes (include "gstack.secretVolume" (list "gateway-tls" .)) -}}
{{- end -}}
{{- end -}}
{{- if eq .component "translator" -}}
{{- if $ca.secret -}}
{{- $_ := set $folders "cloudstack-ca" "/etc/gstack/cloudstack-ca" -}}
{{- $volumes = append $volumes (include "gstack.secretVolume" (list "cloudstack-ca" $ca.secret)) -}}
{{- else if $ca.configMap -}}
{{- $_ := set $folders "cloudstack-ca" "/etc/gstack/cloudstack-ca" -}}
{{- $volumes = append $volumes (printf "- name: cloudstack-ca\n  configMap: {name: %s}" $ca.configMap) -}}
{{- end -}}
{{- if .root.Values.names -}}
{{- $_ := set $folders "names" "/etc/gstack/names" -}}
{{- $volumes = append $volumes (printf "- name: names\n  configMap: {name: %s-names}" (include "gstack.fullname" .root)) -}}
{{- end -}}
{{- end -}}
volumes:
{{- range $volumes }}
{{ . }}
{{- end }}
mounts:
{{- range $name, $path := $folders }}
- name: {{ $name }}
  mountPath: {{ $path }}
  readOnly: true
{{- end }}
{{- end -}}

{{/* Settings of all services, as the ConfigMap has them. */}}
{{- define "gstack.config" -}}
{{- $proxied := or .Values.ingress.enabled .Values.httpRoute.enabled -}}
{{- $known := dict
  "GSTACK_LOG_LEVEL" .Values.logLevel
  "GSTACK_CLOUDSTACK_URL" (include "gstack.cloudstackUrl" .)
  "GSTACK_TRANSLATOR_TARGET" (printf "dns:///%s:5001" (include "gstack.host" (dict "root" . "component" "translator")))
  "GSTACK_AUTH_TARGET" (printf "dns:///%s:5002" (include "gstack.host" (dict "root" . "component" "auth")))
  "GSTACK_PUBLIC_URL" (include "gstack.publicUrl" .)
  "GSTACK_LINK_BASE" .Values.linkBase
  "GSTACK_NAMING" .Values.naming
  "GSTACK_PROXIES" (kindIs "invalid" .Values.proxies | ternary (ternary 1 0 $proxied) .Values.proxies)
-}}
{{- $settings := dict -}}
{{- range $name, $value := merge (deepCopy .Values.config) $known -}}
{{- /* Numbers come as floats, of which large ones would be written with an exponent. */ -}}
{{- $whole := and (kindIs "float64" $value) (eq $value (floor $value)) -}}
{{- $_ := set $settings $name (ternary (printf "%.0f" $value) (toString $value) $whole) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* The rest of a container that migrates the database of a service. It needs no ConfigMap: hooks run before there is
     one. The service's Secret is the volume `secrets`, or another with .volume. */}}
{{- define "gstack.migration" -}}
image: {{ include "gstack.image" (dict "root" .root "image" .values.image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [gstack, db, upgrade, --service, {{ .component }}, --wait, {{ .wait | quote }}]
env: {{- include "gstack.asEnv" (include "gstack.databaseEnv" .) | nindent 2 }}
{{ include "gstack.containerSecurity" . }}
resources: {{- toYaml .root.Values.migrations.resources | nindent 2 }}
volumeMounts:
  {{- include "gstack.scratchMounts" . | nindent 2 }}
  - name: {{ .volume | default "secrets" }}
    mountPath: /etc/gstack/secrets
    readOnly: true
{{- end -}}

{{/* What every container of a service's image has: (dict "context" ... "files" ...) */}}
{{- define "gstack.process" -}}
{{- $root := .context.root -}}
image: {{ include "gstack.image" (dict "root" $root "image" .context.values.image) }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
envFrom:
  - configMapRef: {name: {{ include "gstack.fullname" $root }}-config}
env: {{- include "gstack.asEnv" (include "gstack.env" .context) | nindent 2 }}
{{ include "gstack.containerSecurity" $root }}
resources: {{- toYaml .context.values.resources | nindent 2 }}
volumeMounts:
  {{- include "gstack.scratchMounts" $root | nindent 2 }}
  {{- with .files.mounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

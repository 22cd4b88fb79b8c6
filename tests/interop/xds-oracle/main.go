// The proxies' configuration that Istio's own code makes of a set of objects: a line of JSON in, a line of JSON out.
//
// In: {"name", "kube": "yaml", "config": "yaml", "mesh": "yaml", "nodes": {name: node as in xDS}}.
// Out: {"name", "error", "refused": [objects], "nodes": {name: {"clusters", "endpoints", "listeners", "routes"}}}.
// `scripts/interop` builds it inside Istio's source.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/util"
	labelutil "istio.io/istio/pilot/pkg/serviceregistry/util/label"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/mesh/meshwatcher"
	"istio.io/istio/pkg/log"
	"istio.io/istio/pkg/network"
	"istio.io/istio/pkg/test"
)

type node struct {
	ID       string              `json:"id"`
	Metadata *model.NodeMetadata `json:"metadata"`
	Locality map[string]string   `json:"locality"`
}

type question struct {
	Name     string          `json:"name"`
	Kube     string          `json:"kube"`
	Config   string          `json:"config"`
	Mesh     string          `json:"mesh"`
	Networks string          `json:"networks"`
	Nodes    map[string]node `json:"nodes"`
}

type answer struct {
	Name    string                                  `json:"name"`
	Error   string                                  `json:"error,omitempty"`
	Refused []string                                `json:"refused,omitempty"`
	Nodes   map[string]map[string][]json.RawMessage `json:"nodes,omitempty"`
}

func raw[T proto.Message](found []T) []json.RawMessage {
	result := make([]json.RawMessage, 0, len(found))
	for _, one := range found {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(one)
		if err != nil {
			text, _ = json.Marshal(map[string]string{"error": err.Error()})
		}
		result = append(result, text)
	}
	return result
}

func ask(q question) (result answer) {
	result.Name = q.Name
	result.Nodes = map[string]map[string][]json.RawMessage{}
	err := test.Wrap(func(t test.Failer) {
		defer func() {
			if r := recover(); r != nil {
				result.Error = fmt.Sprint(r)
			}
		}()
		m := mesh.DefaultMeshConfig()
		if q.Mesh != "" {
			made, err := mesh.ApplyMeshConfig(q.Mesh, m)
			if err != nil {
				t.Fatal(err)
			}
			m = made
		}
		configs := []config.Config{}
		for _, doc := range strings.Split(q.Config, "\n---\n") {
			made, _, err := crd.ParseInputs(doc)
			if err != nil {
				result.Refused = append(result.Refused, doc)
				continue
			}
			configs = append(configs, made...)
		}
		start := time.Unix(1700000000, 0)
		for i := range configs {
			configs[i].Domain = "cluster.local"
			if configs[i].CreationTimestamp.IsZero() {
				configs[i].CreationTimestamp = start
			}
		}
		opts := xds.FakeOptions{
			KubernetesObjectString: q.Kube, Configs: configs, MeshConfig: m, DefaultClusterName: "Kubernetes", DisableSecretAuthorization: true,
		}
		if q.Networks != "" {
			n, err := mesh.ParseMeshNetworks(q.Networks)
			if err != nil {
				t.Fatal(err)
			}
			opts.NetworksWatcher = meshwatcher.NewFixedNetworksWatcher(n)
		}
		s := xds.NewFakeDiscoveryServer(t, opts)
		for name, n := range q.Nodes {
			p, err := model.ParseServiceNodeWithMetadata(n.ID, n.Metadata)
			if err != nil {
				t.Fatal(err)
			}
			p.Labels = n.Metadata.Labels
			p.ConfigNamespace = model.GetProxyConfigNamespace(p)
			p.Locality = &core.Locality{Region: n.Locality["region"], Zone: n.Locality["zone"], SubZone: n.Locality["sub_zone"]}
			p.XdsNode = &core.Node{Id: n.ID, Metadata: n.Metadata.ToStruct(), Locality: p.Locality}
			p.Metadata.ClusterID = "Kubernetes"
			if p.Metadata.Network != "" {
				p.Metadata.Network = network.ID(p.Metadata.Network)
			}
			p.WatchedResources = map[string]*model.WatchedResource{}
			p.Labels = labelutil.AugmentLabels(p.Labels, p.Metadata.ClusterID, util.LocalityToString(p.Locality), p.GetNodeName(), p.Metadata.Network)
			p = s.SetupProxy(p)
			listeners := s.Listeners(p)
			result.Nodes[name] = map[string][]json.RawMessage{
				"clusters": raw(s.Clusters(p)), "endpoints": raw(s.Endpoints(p)), "listeners": raw(listeners),
				"routes": raw(s.RoutesFromListeners(p, listeners)),
			}
		}
	})
	if err != nil && result.Error == "" {
		result.Error = strings.TrimSpace(err.Error())
	}
	return result
}

func main() {
	o := log.DefaultOptions()
	o.OutputPaths = []string{"stderr"}
	o.SetDefaultOutputLevel("all", log.NoneLevel)
	_ = log.Configure(o)
	in, out := bufio.NewReaderSize(os.Stdin, 1<<20), bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var q question
			var a answer
			if err := json.Unmarshal(line, &q); err != nil {
				a.Error = err.Error()
			} else {
				a = ask(q)
			}
			text, _ := json.Marshal(a)
			_, _ = out.Write(append(text, '\n'))
			_ = out.Flush()
		}
		if err == io.EOF {
			return
		}
	}
}

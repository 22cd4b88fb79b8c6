// What Istio says to what users write: a line of JSON in, a line of JSON out.
//
// In: {"object": {...}} (a custom resource), {"mesh": "yaml"} (MeshConfig) or {"networks": "yaml"} (MeshNetworks).
// Out: {"refused": why, "warnings": [...]} as the validating webhook answers; of an object also {"schema": why}, as the
// API server refuses it by the definition, and of a mesh {"value": the configuration with all defaults}.
// Istio's libraries print their log lines in between; an answer begins with a brace.
// `scripts/interop` builds it inside Istio's source. Its argument is the file of Istio's definitions.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-multierror"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"

	kubeconfig "istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pkg/config/crd"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/resource"
	"istio.io/istio/pkg/config/validation"
	"istio.io/istio/pkg/config/validation/agent"
	"istio.io/istio/pkg/util/protomarshal"
)

type question struct {
	Object   json.RawMessage `json:"object"`
	Mesh     *string         `json:"mesh"`
	Networks *string         `json:"networks"`
}

type answer struct {
	Refused  string          `json:"refused,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Schema   string          `json:"schema,omitempty"`
	Value    json.RawMessage `json:"value,omitempty"`
}

func main() {
	schemas, err := read(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		encoded, _ := json.Marshal(guarded(line, schemas))
		_, _ = out.Write(append(encoded, '\n'))
		_ = out.Flush()
	}
}

// definitions judge as the API server does. Istio's validator leaves out what the API server does first: a null that may
// not be there is taken as absent.
type definitions struct {
	*crd.Validator
	structural map[string]*structuralschema.Structural
}

func read(file string) (*definitions, error) {
	validator, err := crd.NewValidatorFromFiles(file)
	if err != nil {
		return nil, err
	}
	found := &definitions{validator, map[string]*structuralschema.Structural{}}
	text, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	documents := kubeyaml.NewYAMLOrJSONDecoder(text, 1<<20)
	for {
		outside := apiextensionsv1.CustomResourceDefinition{}
		if err := documents.Decode(&outside); err == io.EOF {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		if outside.Name == "" {
			continue
		}
		for _, version := range outside.Spec.Versions {
			schema := apiextensions.JSONSchemaProps{}
			if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
				version.Schema.OpenAPIV3Schema, &schema, nil); err != nil {
				return nil, err
			}
			structural, err := structuralschema.NewStructural(&schema)
			if err != nil {
				return nil, err
			}
			found.structural[outside.Spec.Group+"/"+version.Name+" "+outside.Spec.Names.Kind] = structural
		}
	}
}

// guarded tells a panic of Istio's apart from a refusal.
func guarded(line []byte, schemas *definitions) (said answer) {
	defer func() {
		if cause := recover(); cause != nil {
			said = answer{Refused: fmt.Sprintf("panic: %v", cause)}
		}
	}()
	asked := question{}
	if err := json.Unmarshal(line, &asked); err != nil {
		return answer{Refused: "not a question: " + err.Error()}
	}
	switch {
	case asked.Mesh != nil:
		return ofMesh(*asked.Mesh)
	case asked.Networks != nil:
		if _, err := mesh.ParseMeshNetworks(*asked.Networks); err != nil {
			return answer{Refused: err.Error()}
		}
		return answer{}
	}
	return ofObject(asked.Object, schemas)
}

func ofMesh(text string) answer {
	config, err := mesh.ApplyMeshConfigDefaults(text)
	if err != nil {
		return answer{Refused: err.Error()}
	}
	said := answer{}
	warnings, err := agent.ValidateMeshConfig(config)
	if err != nil {
		said.Refused = err.Error()
	}
	said.Warnings = texts(warnings)
	if value, err := protomarshal.ToJSON(config); err == nil {
		said.Value = json.RawMessage(value)
	}
	return said
}

func ofObject(raw []byte, schemas *definitions) answer {
	said := answer{}
	object := unstructured.Unstructured{}
	if err := object.UnmarshalJSON(raw); err != nil {
		return answer{Refused: err.Error(), Schema: err.Error()}
	}
	if structural, known := schemas.structural[object.GetAPIVersion()+" "+object.GetKind()]; known {
		defaulting.PruneNonNullableNullsWithoutDefaults(object.Object, structural)
	}
	stored, err := object.MarshalJSON()
	if err != nil {
		return answer{Refused: err.Error()}
	}
	if err := schemas.ValidateCustomResource(&object); err != nil {
		said.Schema = err.Error()
	}
	kind := kubeconfig.IstioKind{}
	if err := json.Unmarshal(stored, &kind); err != nil {
		said.Refused = err.Error()
		return said
	}
	gvk := kind.GroupVersionKind()
	schema, known := collections.Pilot.FindByGroupKind(resource.FromKubernetesGVK(&gvk))
	if !known {
		said.Refused = "unrecognized type " + gvk.String()
		return said
	}
	config, err := kubeconfig.ConvertObject(schema, &kind, "cluster.local")
	if err != nil {
		said.Refused = err.Error()
		return said
	}
	warnings, err := schema.ValidateConfig(*config)
	if err != nil {
		said.Refused = err.Error()
	}
	said.Warnings = texts(warnings)
	return said
}

func texts(warnings validation.Warning) []string {
	if warnings == nil {
		return nil
	}
	found := []string{}
	if many, ok := warnings.(*multierror.Error); ok {
		for _, one := range many.Errors {
			found = append(found, one.Error())
		}
		return found
	}
	return []string{warnings.Error()}
}

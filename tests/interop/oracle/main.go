// What Istio says to what users write: a line of JSON in, a line of JSON out.
//
// In: {"object": {...}} (a custom resource), {"mesh": "yaml"} (MeshConfig), {"networks": "yaml"} (MeshNetworks), or
// {"describe": "MeshConfig"} (or MeshNetworks): {"value": its fields, as JSON schema}.
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
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	meshconfig "istio.io/api/mesh/v1alpha1"
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
)

type question struct {
	Object   json.RawMessage `json:"object"`
	Mesh     *string         `json:"mesh"`
	Networks *string         `json:"networks"`
	Describe string          `json:"describe"`
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
	case asked.Describe == "MeshConfig":
		return described((&meshconfig.MeshConfig{}).ProtoReflect().Descriptor())
	case asked.Describe == "MeshNetworks":
		return described((&meshconfig.MeshNetworks{}).ProtoReflect().Descriptor())
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
	if value, err := (protojson.MarshalOptions{EmitUnpopulated: true}).Marshal(config); err == nil {
		said.Value = value
	}
	return said
}

func described(message protoreflect.MessageDescriptor) answer {
	value, _ := json.Marshal(ofMessage(message, 0))
	return answer{Value: value}
}

func ofMessage(message protoreflect.MessageDescriptor, depth int) map[string]any {
	if message.FullName() == "google.protobuf.Duration" {
		return map[string]any{"type": "string", "format": "duration"}
	}
	if inner := message.Fields().ByName("value"); inner != nil && message.ParentFile().Package() == "google.protobuf" {
		return ofField(inner, depth)
	}
	properties := map[string]any{}
	for i := 0; depth < 12 && i < message.Fields().Len(); i++ {
		field := message.Fields().Get(i)
		properties[field.JSONName()] = ofField(field, depth+1)
	}
	return map[string]any{"type": "object", "properties": properties}
}

func ofField(field protoreflect.FieldDescriptor, depth int) map[string]any {
	if field.IsMap() {
		return map[string]any{"type": "object", "additionalProperties": ofOne(field.MapValue(), depth)}
	}
	if field.IsList() {
		return map[string]any{"type": "array", "items": ofOne(field, depth)}
	}
	return ofOne(field, depth)
}

func ofOne(field protoreflect.FieldDescriptor, depth int) map[string]any {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return ofMessage(field.Message(), depth)
	case protoreflect.EnumKind:
		names := []string{}
		for i := 0; i < field.Enum().Values().Len(); i++ {
			names = append(names, string(field.Enum().Values().Get(i).Name()))
		}
		return map[string]any{"type": "string", "enum": names}
	case protoreflect.BoolKind:
		return map[string]any{"type": "boolean"}
	case protoreflect.StringKind, protoreflect.BytesKind:
		return map[string]any{"type": "string"}
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return map[string]any{"type": "number"}
	}
	return map[string]any{"type": "integer"}
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

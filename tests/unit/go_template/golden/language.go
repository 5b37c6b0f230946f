// Writes the results of Go's own text/template into language.json:
//
//	go run tests/unit/go_template/golden/language.go
//
// All cases have the same data. Each receives its text, or "fails": true. Error texts are not compared.

package main

import (
	"bytes"
	"encoding/json"
	"log"
	"os"
	"text/template"
)

const path = "tests/unit/go_template/golden/language.json"

type testCase struct {
	Template string `json:"template"`
	Text     string `json:"text,omitempty"`
	Fails    bool   `json:"fails,omitempty"`
}

type file struct {
	Data  map[string]any `json:"data"`
	Cases []testCase     `json:"cases"`
}

func render(source string, data map[string]any) (string, error) {
	functions := template.FuncMap{"json": func(value any) (string, error) {
		text, err := json.Marshal(value)
		return string(text), err
	}}
	parsed, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(source)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	err = parsed.Execute(&text, data)
	return text.String(), err
}

func main() {
	given, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	var all file
	if err := json.Unmarshal(given, &all); err != nil {
		log.Fatal(err)
	}
	for i := range all.Cases {
		c := &all.Cases[i]
		text, err := render(c.Template, all.Data)
		c.Text, c.Fails = text, err != nil
		if c.Fails {
			c.Text = ""
		}
	}
	var result bytes.Buffer
	encoder := json.NewEncoder(&result)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(all); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(path, result.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
}

// Writes the results of Ollama's own packages into prompts.json. Run it in an empty folder:
//
//	go mod init golden && go get github.com/ollama/ollama/template
//	cp REPOSITORY/tests/unit/go_template/golden/prompts.* .
//	go run prompts.go && cp prompts.json REPOSITORY/tests/unit/go_template/golden/
//
// A case has the fields of a request and the name of a template. It receives the prompt, or "fails": true, and the
// tags that Ollama infers from the template.

package main

import (
	"bytes"
	"encoding/json"
	"log"
	"os"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/template"
	"github.com/ollama/ollama/thinking"
	"github.com/ollama/ollama/tools"
)

const path = "prompts.json"

type testCase struct {
	Name     string          `json:"name"`
	Template string          `json:"template"`
	Messages json.RawMessage `json:"messages,omitempty"`
	Tools    json.RawMessage `json:"tools,omitempty"`
	Think    *api.ThinkValue `json:"think,omitempty"`
	Prompt   string          `json:"prompt,omitempty"`
	Suffix   string          `json:"suffix,omitempty"`

	Text     string    `json:"text,omitempty"`
	Fails    bool      `json:"fails,omitempty"`
	Thinking [2]string `json:"thinking_tags"`
	Call     string    `json:"call_tag"`
}

type file struct {
	Templates map[string]string `json:"templates"`
	Cases     []testCase        `json:"cases"`
}

func (c *testCase) render(source string) error {
	values := template.Values{Prompt: c.Prompt, Suffix: c.Suffix, IsThinkSet: c.Think != nil}
	if c.Messages != nil {
		if err := json.Unmarshal(c.Messages, &values.Messages); err != nil {
			log.Fatal(c.Name, err)
		}
	}
	if c.Tools != nil {
		if err := json.Unmarshal(c.Tools, &values.Tools); err != nil {
			log.Fatal(c.Name, err)
		}
	}
	if c.Think != nil {
		values.Think, values.ThinkLevel = c.Think.Bool(), c.Think.String()
	}
	parsed, err := template.Parse(source)
	if err != nil {
		return err
	}
	c.Thinking[0], c.Thinking[1] = thinking.InferTags(parsed.Template)
	c.Call = tools.NewParser(parsed.Template, values.Tools).Tag()
	var text bytes.Buffer
	err = parsed.Execute(&text, values)
	c.Text = text.String()
	return err
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
		if err := c.render(all.Templates[c.Template]); err != nil {
			c.Text, c.Fails = "", true
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

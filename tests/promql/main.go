// Judges the alerts and the dashboard by Prometheus' own rules: the shape of the file of rules, every template in it, and
// the syntax and types of every expression. Usage: promql RULES DASHBOARD
package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

type dashboard struct {
	Panels []struct {
		Title   string `json:"title"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
}

func main() {
	failures, checked := 0, 0
	fail := func(place string, err error) {
		failures++
		fmt.Printf("%s: %v\n", place, err)
	}
	promql := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.ParseFile(os.Args[1], false, model.UTF8Validation, promql, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		fail(os.Args[1], err)
	}
	if groups != nil {
		for _, group := range groups.Groups {
			checked += len(group.Rules)
		}
	}
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		fail(os.Args[2], err)
	}
	var shown dashboard
	if err := json.Unmarshal(text, &shown); err != nil {
		fail(os.Args[2], err)
	}
	for _, panel := range shown.Panels {
		for _, target := range panel.Targets {
			checked++
			// Grafana puts a duration there.
			expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")
			if _, err := promql.ParseExpr(expr); err != nil {
				fail("panel "+panel.Title, err)
			}
		}
	}
	if checked < 20 {
		fail("all", fmt.Errorf("only %d expressions were found", checked))
	}
	if failures > 0 {
		os.Exit(1)
	}
	fmt.Printf("PromQL of alerts and dashboard: %d expressions are good\n", checked)
}

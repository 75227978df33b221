#!/usr/bin/env python3
"""Derives the table of facts in jumpcloud.tsv from JumpCloud's published descriptions.

    tests/contract/derive.py FOLDER > tests/contract/jumpcloud.tsv

FOLDER holds JumpCloud.SDK.V1.json, JumpCloud.SDK.V2.json and JumpCloud.SDK.DirectoryInsights.json (Swagger 2.0), as
TheJumpCloud/jcapi-powershell publishes them under SwaggerSpecs. Only names, types and bounds are taken, no prose.
With --check FILE nothing is printed; the exit code is 1 when FILE is not what the descriptions give.

Rows, tab-separated and sorted:

    answer         METHOD PATH  STATUS     TYPE, or none when a success is described without a body
    answer-header  METHOD PATH  NAME       TYPE
    body           METHOD PATH  body       TYPE
    field          SCHEMA       NAME       TYPE
    header         METHOD PATH  NAME       TYPE
    path           METHOD PATH  described  yes, or named when a path is there without the method, or no
    query          METHOD PATH  NAME       TYPE

TYPE is string, integer, number, boolean, any (an object with free keys), the name of a schema, or a type behind `[]`
(an array). Behind it follow, separated by spaces: `null` (may be null), `required`, `csv` or `multi` (how a query
parameter repeats), `A|B` (all values of an enumeration), `N..M` (bounds, one of them may be missing), `default=N`.
"""

import json
import pathlib
import re
import sys

# What the connector and its simulator know, with the descriptions' file and the parts before the described path.
V1, V2, INSIGHTS = "V1", "V2", "DirectoryInsights"
ENDPOINTS = [
    (V1, "/api", "POST", "/search/systemusers"),
    (V1, "/api", "GET", "/systemusers"),
    (V1, "/api", "POST", "/systemusers"),
    (V1, "/api", "DELETE", "/systemusers/{id}"),
    (V1, "/api", "GET", "/systemusers/{id}"),
    (V1, "/api", "PUT", "/systemusers/{id}"),
    (V1, "/api", "POST", "/systemusers/{id}/expire"),
    (V1, "/api", "POST", "/systemusers/{id}/resetmfa"),
    (V1, "/api", "GET", "/systemusers/{id}/sshkeys"),
    (V1, "/api", "POST", "/systemusers/{id}/sshkeys"),
    (V1, "/api", "DELETE", "/systemusers/{id}/sshkeys/{id}"),
    (V1, "/api", "POST", "/systemusers/{id}/state/activate"),
    (V1, "/api", "POST", "/systemusers/{id}/unlock"),
    (V1, "/api", "GET", "/users"),
    (V1, "/api", "POST", "/users"),
    (V1, "/api", "GET", "/users/getSelf"),
    (V1, "/api", "DELETE", "/users/{id}"),
    (V1, "/api", "GET", "/users/{id}"),
    (V1, "/api", "PUT", "/users/{id}"),
    (V1, "/api", "GET", "/applications"),
    (V1, "/api", "GET", "/applications/{id}"),
    (V1, "/api", "GET", "/organizations"),
    (V1, "/api", "GET", "/organizations/{id}"),
    (V2, "/api/v2", "GET", "/applications/{id}/associations"),
    (V2, "/api/v2", "POST", "/applications/{id}/associations"),
    (V2, "/api/v2", "GET", "/applications/{id}/usergroups"),
    (V2, "/api/v2", "GET", "/applications/{id}/users"),
    (V2, "/api/v2", "GET", "/bulk/userstates"),
    (V2, "/api/v2", "POST", "/bulk/userstates"),
    (V2, "/api/v2", "DELETE", "/bulk/userstates/{id}"),
    (V2, "/api/v2", "GET", "/directories"),
    (V2, "/api/v2", "GET", "/roles"),
    (V2, "/api/v2", "GET", "/roles/{id}"),
    (V2, "/api/v2", "GET", "/usergroups"),
    (V2, "/api/v2", "POST", "/usergroups"),
    (V2, "/api/v2", "DELETE", "/usergroups/{id}"),
    (V2, "/api/v2", "GET", "/usergroups/{id}"),
    (V2, "/api/v2", "PUT", "/usergroups/{id}"),
    (V2, "/api/v2", "GET", "/usergroups/{id}/associations"),
    (V2, "/api/v2", "POST", "/usergroups/{id}/associations"),
    (V2, "/api/v2", "GET", "/usergroups/{id}/members"),
    (V2, "/api/v2", "POST", "/usergroups/{id}/members"),
    (V2, "/api/v2", "GET", "/usergroups/{id}/membership"),
    (V2, "/api/v2", "GET", "/users/{id}/applications"),
    (V2, "/api/v2", "GET", "/users/{id}/associations"),
    (V2, "/api/v2", "POST", "/users/{id}/associations"),
    (V2, "/api/v2", "GET", "/users/{id}/memberof"),
    (INSIGHTS, "/insights/directory/v1", "POST", "/events/count"),
]

# Objects that are described although no endpoint above is described to answer with them.
SCHEMAS = [(V1, "Error"), (V1, "userreturn"), (V2, "Error"), (V2, "ErrorDetails")]

# Before the names of schemas, which are not unique over the files.
PREFIX = {V1: "v1.", V2: "v2.", INSIGHTS: "insights."}

# Of these only the names of the fields are taken: their insides are large and never read.
OPAQUE_INSIDE = {
    "v1.application.config",
    "v1.organization.customEmailSettings",
    "v1.organization.entitlement",
    "v1.organization.settings",
}


class Description:
    """One file, and the rows that its schemas give."""

    def __init__(self, folder, name):
        self.root = json.loads((folder / f"JumpCloud.SDK.{name}.json").read_text(encoding="utf-8"))
        self.rows = set()
        self.prefix = PREFIX[name]
        self.seen = set()
        self.paths = {self.plain(path): item for path, item in self.root["paths"].items()}

    @staticmethod
    def plain(path):
        """The path with every parameter called {id}."""
        parts = ("{id}" if part.startswith("{") else part for part in path.split("/"))
        return "/".join(parts)

    def resolve(self, node):
        """The node that a $ref leads to, and the last part of the reference."""
        name = None
        while "$ref" in node:
            way = node["$ref"].removeprefix("#/").split("/")
            name = way[-1]
            node = self.root
            for part in way:
                node = node[part]
        return node, name

    def type_of(self, node, inline_name):
        """The type of a schema; the fields of objects become rows."""
        nullable = node.get("x-nullable", False)
        node, name = self.resolve(node)
        nullable = nullable or node.get("x-nullable", False)
        merged = dict(node)
        for part in node.get("allOf", []):
            part, _ = self.resolve(part)
            merged["properties"] = {**merged.get("properties", {}), **part.get("properties", {})}
            merged["required"] = merged.get("required", []) + part.get("required", [])
        kind = merged.get("type") or ("object" if merged.get("properties") else "any")
        if kind == "array":
            text = "[]" + self.type_of(merged.get("items", {}), inline_name)
        elif kind == "object" and merged.get("properties"):
            text = self.prefix + name if name else inline_name
            self.fields(text, merged, inline_name in OPAQUE_INSIDE)
        elif kind in ("object", "any"):
            text = "any"
        else:
            text = kind
        return text + self.details(merged, nullable)

    def fields(self, schema, node, opaque):
        if schema in self.seen:
            return
        self.seen.add(schema)
        for name, child in node["properties"].items():
            where = f"{schema}.{name}"
            kind = "any" if opaque else self.type_of(child, where)
            if name in node.get("required", []):
                kind += " required"
            self.rows.add(("field", schema, name, kind))

    @staticmethod
    def details(node, nullable=False):
        text = " null" if nullable else ""
        if node.get("enum"):
            text += " " + "|".join(str(value) for value in node["enum"])
        if "minimum" in node or "maximum" in node:
            text += f" {node.get('minimum', '')}..{node.get('maximum', '')}"
        if isinstance(node.get("default"), int) and not isinstance(node["default"], bool):
            text += f" default={node['default']}"
        return text

    def parameter(self, endpoint, node):
        node, _ = self.resolve(node)
        place = node["in"]
        if place == "body":
            # A body without a name of its own is called after its path.
            inline = self.prefix + ".".join(["body", *re.findall(r"\w+", endpoint.split("/api/")[-1])])
            self.rows.add(("body", endpoint, "body", self.type_of(node["schema"], inline)))
        if place == "header":
            self.rows.add(("header", endpoint, node["name"].lower(), node["type"]))
        if place != "query":
            return
        kind = node["type"]
        if kind == "array":
            items = node.get("items", {})
            kind = f"[]{items['type']}{self.details(items)} {node.get('collectionFormat', 'csv')}"
        kind += self.details(node)
        if node.get("required"):
            kind += " required"
        self.rows.add(("query", endpoint, node["name"], kind))

    def endpoint(self, before, method, path):
        endpoint = f"{method} {before}{path}"
        item = self.paths.get(path, {})
        operation = item.get(method.lower())
        known = "yes" if operation else "named" if path in self.paths else "no"
        self.rows.add(("path", endpoint, "described", known))
        if operation is None:
            return
        for parameter in item.get("parameters", []) + operation.get("parameters", []):
            self.parameter(endpoint, parameter)
        for scheme in self.root.get("securityDefinitions", {}).values():
            if scheme["type"] == "apiKey" and scheme["in"] == "header":
                self.rows.add(("header", endpoint, scheme["name"].lower(), "string"))
        # The header of the organisation is in no list of parameters, only in the samples.
        for sample in operation.get("x-codeSamples", []):
            for name in re.findall(r"--header '([A-Za-z-]+):", sample["source"]):
                if name.lower() not in ("accept", "content-type"):
                    self.rows.add(("header", endpoint, name.lower(), "string"))
        for status, response in operation["responses"].items():
            response, _ = self.resolve(response)
            if "schema" in response:
                kind = self.type_of(response["schema"], f"{endpoint} {status}")
                self.rows.add(("answer", endpoint, status, kind))
            elif status.startswith("2"):
                self.rows.add(("answer", endpoint, status, "none"))
            for name, header in response.get("headers", {}).items():
                self.rows.add(("answer-header", endpoint, name.lower(), header["type"]))

    def schema(self, name):
        self.type_of({"$ref": f"#/definitions/{name}"}, name)


def derive(folder):
    descriptions = {name: Description(folder, name) for name in (V1, V2, INSIGHTS)}
    for name, before, method, path in ENDPOINTS:
        descriptions[name].endpoint(before, method, path)
    for name, schema in SCHEMAS:
        descriptions[name].schema(schema)
    rows = set().union(*(description.rows for description in descriptions.values()))
    return "".join("\t".join(row) + "\n" for row in sorted(rows))


def main(arguments):
    check = None
    if len(arguments) == 3 and arguments[0] == "--check":
        check = pathlib.Path(arguments[1])
        arguments = arguments[2:]
    if len(arguments) != 1 or not pathlib.Path(arguments[0]).is_dir():
        sys.exit("usage: derive.py [--check FILE] FOLDER")
    table = derive(pathlib.Path(arguments[0]))
    if check is None:
        sys.stdout.write(table)
    elif check.read_text(encoding="utf-8") != table:
        sys.exit(f"{check} is not what the descriptions in {arguments[0]} give; derive it again and look at the changes")


if __name__ == "__main__":
    main(sys.argv[1:])

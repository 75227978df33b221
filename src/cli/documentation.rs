//! The table of all settings as Markdown, made from the clap definitions.

use std::fmt::Write;

use clap::Arg;

use super::definition;
use crate::config::settings::{self, Kind, VARIABLES};

/// The line before the table in the README.
pub const BEGIN_MARKER: &str = "<!-- configuration -->";

/// The line after the table in the README.
pub const END_MARKER: &str = "<!-- /configuration -->";

/// Renders every visible flag with its variable, default and meaning, by group, and then the variables that are no flags.
pub fn configuration_table() -> String {
    let definition = definition();
    let visible: Vec<&Arg> = definition
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && argument.get_help_heading().is_some())
        .collect();
    let mut groups: Vec<&str> = Vec::new();
    for argument in &visible {
        if let Some(group) = argument.get_help_heading()
            && !groups.contains(&group)
        {
            groups.push(group);
        }
    }
    let mut text = String::new();
    for group in groups {
        push(&mut text, &format!("**{group}**\n"));
        push(&mut text, "| Flag | Environment | Default | Meaning |");
        push(&mut text, "|---|---|---|---|");
        for argument in visible
            .iter()
            .filter(|argument| argument.get_help_heading() == Some(group))
        {
            push(&mut text, &row(argument));
        }
        push(&mut text, "");
    }
    push(&mut text, "**Environment variables that are no flags**\n");
    push(&mut text, "| Variable | Meaning |");
    push(&mut text, "|---|---|");
    for variable in VARIABLES.iter().filter(|variable| variable.used) {
        let names: Vec<_> = variable
            .name
            .split(", ")
            .map(|name| format!("`{name}`"))
            .collect();
        push(
            &mut text,
            &format!("| {} | {} |", names.join(", "), escaped(variable.help)),
        );
    }
    text
}

fn row(argument: &Arg) -> String {
    let name = argument.get_id().as_str();
    let short = argument
        .get_short()
        .map_or_else(String::new, |letter| format!(", `-{letter}`"));
    let setting = settings::find(name);
    let default = match setting {
        Some(setting) => match (setting.default, setting.kind) {
            (
                Some(default),
                Kind::Text
                | Kind::Path
                | Kind::Duration
                | Kind::Integer
                | Kind::Switch
                | Kind::Mode,
            ) => {
                format!("`{default}`")
            }
            _ => String::new(),
        },
        None => String::new(),
    };
    format!(
        "| `--{name}`{short} | `{}` | {default} | {} |",
        settings::variable_of(name),
        escaped(setting.map_or("", |setting| setting.help))
    )
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn push(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "{line}").unwrap_or_default();
}

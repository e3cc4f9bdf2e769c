//! The reference page and the example file, written from the declarations.

use toml::Value;

use crate::load::all_options;
use crate::{Opt, Reload, Shape};

/// The reference of all options, in Markdown (docs/config.md).
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         One TOML file, given with `samtal serve --config FILE`. Everything has a default but the server's name, and\n\
         `samtal serve --server-name example.org` needs no file. `samtal config check` says what is wrong with a file,\n\
         with the line; `samtal config example` prints one to start from.\n\n\
         Any option outside of lists can be set by a variable of the environment: `SAMTAL_SERVER__NAME` is `server.name`.\n\
         A list may then be written with commas. Variables win over the file.\n\n\
         On SIGHUP the file is read again, and options marked *live* take effect; others wait for a restart.\n\n\
         This page is generated (`samtal config reference`).\n",
    );
    for section in all_options() {
        table(&mut page, section.name, &section);
    }
    page
}

fn table(page: &mut String, path: &str, section: &Opt) {
    let (options, heading) = match &section.shape {
        Shape::Table { options, .. } => (options(), format!("[{path}]")),
        Shape::Tables { options, .. } => (options(), format!("[[{path}]]")),
        Shape::Value { .. } => return,
    };
    page.push_str(&format!("\n## `{heading}`\n\n{}\n\n", prose(section.docs)));
    let mut inner = Vec::new();
    page.push_str("| option | takes | default | |\n| --- | --- | --- | --- |\n");
    for option in &options {
        match &option.shape {
            Shape::Value { words, .. } => page.push_str(&row(option, words)),
            _ => inner.push(option),
        }
    }
    if inner.len() == options.len() {
        page.truncate(page.len() - "| option | takes | default | |\n| --- | --- | --- | --- |\n".len());
    }
    for option in inner {
        table(page, &format!("{path}.{}", option.name), option);
    }
}

fn row(option: &Opt, words: &str) -> String {
    let mut takes = words.replace('|', "\\|");
    if !option.meta.unit.is_empty() {
        takes.push_str(&format!(", {}", option.meta.unit));
    }
    if let Some((least, greatest)) = option.meta.range {
        takes.push_str(&match greatest {
            i64::MAX => format!(", at least {least}"),
            _ => format!(", {least} to {greatest}"),
        });
    }
    let default = match &option.default {
        _ if option.meta.required => "must be given".to_owned(),
        Some(Value::Array(items)) if items.len() > 4 => "see the example file".to_owned(),
        Some(value) => format!("`{value}`"),
        None => "none".to_owned(),
    };
    let live = match option.meta.reload {
        Reload::Live => " *Live.*",
        Reload::Restart => "",
    };
    format!("| `{}` | {takes} | {default} | {}{live} |\n", option.name, prose(option.docs))
}

fn prose(docs: &[&str]) -> String {
    docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A file with every option at its default, commented out (samtal.example.toml).
pub fn example() -> String {
    let mut text = String::from(
        "# Samtal's configuration. All that is commented out is the default, or an example where there is none.\n\
         # `samtal config check` says what is wrong with a file; docs/config.md describes every option.\n",
    );
    for section in all_options() {
        example_table(&mut text, section.name, &section, true);
    }
    text
}

fn example_table(text: &mut String, path: &str, section: &Opt, top: bool) {
    let (options, heading) = match &section.shape {
        Shape::Table { options, .. } => (options(), format!("[{path}]")),
        Shape::Tables { options, .. } => (options(), format!("[[{path}]]")),
        Shape::Value { .. } => return,
    };
    text.push('\n');
    for line in section.docs {
        text.push_str(&format!("#{line}\n"));
    }
    // Tables that mean something by being there stay commented out.
    let plain = top && matches!(section.shape, Shape::Table { .. }) && section.default.is_some();
    text.push_str(&if plain { format!("{heading}\n") } else { format!("# {heading}\n") });
    for option in &options {
        if let Shape::Value { .. } = &option.shape {
            example_value(text, option, section);
        }
    }
    for option in options.iter().filter(|o| !matches!(o.shape, Shape::Value { .. })) {
        example_table(text, &format!("{path}.{}", option.name), option, false);
    }
}

fn example_value(text: &mut String, option: &Opt, section: &Opt) {
    for line in option.docs {
        text.push_str(&format!("#{line}\n"));
    }
    let own = match &section.default {
        Some(Value::Table(table)) => table.get(option.name).cloned(),
        _ => None,
    };
    let value = match own.or_else(|| option.default.clone()) {
        Some(Value::String(text)) if text.is_empty() && !option.meta.example.is_empty() => {
            option.meta.example.to_owned()
        }
        Some(Value::Array(items)) if items.is_empty() && !option.meta.example.is_empty() => {
            option.meta.example.to_owned()
        }
        Some(value) => value.to_string(),
        None => option.meta.example.to_owned(),
    };
    text.push_str(&format!("# {} = {value}\n", option.name));
}

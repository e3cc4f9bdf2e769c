//! `samtal tenant`.

use std::path::{Path, PathBuf};

use ruma::ServerName;
use samtal_config::{Config, Source, added_tenants_dir};
use samtal_server::control::told;

use crate::Outcome;
use crate::args::TenantVerb;

pub(crate) fn tenant(source: &Source, verb: &TenantVerb) -> Outcome {
    let config = source.load().map_err(|e| told(&e))?;
    match verb {
        TenantVerb::List => list(&config),
        TenantVerb::Add { name, public_base_url, federation_address } => {
            add(source, &config, name, public_base_url.as_deref(), federation_address.as_deref())
        }
        TenantVerb::Remove { name } => remove(&config, name),
    }
}

fn list(config: &Config) -> Outcome {
    for tenant in &config.tenants {
        println!("{}\t{}\t{}", tenant.name, tenant.public_base_url, tenant.data_dir.display());
    }
    Ok(())
}

fn add(source: &Source, config: &Config, name: &str, base_url: Option<&str>, address: Option<&str>) -> Outcome {
    let name = ServerName::parse(name).map_err(|_| format!("{name} is not a server name"))?;
    if config.tenants.iter().any(|tenant| tenant.name == name) {
        return Err(format!("{name} is there already"));
    }
    let path = file_of(config, &name);
    let mut text = format!("name = {}\n", quoted(name.as_str()));
    if let Some(url) = base_url {
        text.push_str(&format!("public_base_url = {}\n", quoted(url)));
    }
    if let Some(address) = address {
        text.push_str(&format!("federation_address = {}\n", quoted(address)));
    }
    let failed = |path: &Path, e: &std::io::Error| format!("{}: {e}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|e| failed(directory, &e))?;
    }
    std::fs::write(&path, text).map_err(|e| failed(&path, &e))?;
    // A value that the file format refuses must not stay to trouble the next start.
    if let Err(e) = source.load() {
        let _ = std::fs::remove_file(&path);
        return Err(told(&e));
    }
    println!("{name} added in {}", path.display());
    println!("A running server takes it in on reload (SIGHUP).");
    Ok(())
}

fn remove(config: &Config, name: &str) -> Outcome {
    let Some(tenant) = config.tenants.iter().find(|tenant| tenant.name == name) else {
        return Err(format!("{name} is not there"));
    };
    let path = file_of(config, &tenant.name);
    std::fs::remove_file(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            format!("{name} is not one that was added: take it out of the configuration file")
        }
        _ => format!("{}: {e}", path.display()),
    })?;
    println!("{name} removed; its data stays in {}", tenant.data_dir.display());
    println!("A running server lets go of it on reload (SIGHUP).");
    Ok(())
}

fn file_of(config: &Config, name: &ServerName) -> PathBuf {
    let file = format!("{}.toml", name.as_str().replace([':', '[', ']'], "_"));
    added_tenants_dir(&config.process.server.data_dir).join(file)
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

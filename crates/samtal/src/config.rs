//! `samtal config`.

use samtal_config::Source;
use samtal_server::control::told;

use crate::Outcome;
use crate::args::ConfigVerb;

pub(crate) fn config(source: &Source, verb: &ConfigVerb) -> Outcome {
    match verb {
        ConfigVerb::Check => check(source),
        ConfigVerb::Reference => {
            print!("{}", samtal_config::reference());
            Ok(())
        }
        ConfigVerb::Example => {
            print!("{}", samtal_config::example());
            Ok(())
        }
    }
}

fn check(source: &Source) -> Outcome {
    let config = source.load().map_err(|e| told(&e))?;
    if config.tenants.is_empty() {
        return Err(samtal_server::ServerError::NoTenant.to_string());
    }
    samtal_server::Installation::examine(&config)
        .map_err(|wrong| wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let names: Vec<String> = config.tenants.iter().map(|tenant| tenant.name.to_string()).collect();
    println!("right: {}", names.join(", "));
    Ok(())
}

//! `samtal user`.

use samtal_config::Source;
use samtal_server::control::{Command, UserCommand};

use crate::Outcome;
use crate::args::UserVerb;
use crate::backup::run;

pub(crate) async fn user(source: &Source, verb: UserVerb) -> Outcome {
    let command = match verb {
        UserVerb::Create { user, admin, password_stdin } => {
            UserCommand::Create { user, admin, password: password(password_stdin)? }
        }
        UserVerb::List { tenant } => UserCommand::List { tenant },
        UserVerb::Lock { user } => UserCommand::Lock { user, on: true },
        UserVerb::Unlock { user } => UserCommand::Lock { user, on: false },
        UserVerb::Suspend { user } => UserCommand::Suspend { user, on: true },
        UserVerb::Unsuspend { user } => UserCommand::Suspend { user, on: false },
        UserVerb::ResetPassword { user, password_stdin, keep_sessions } => {
            UserCommand::ResetPassword { user, password: password(password_stdin)?, keep_sessions }
        }
        UserVerb::Show { user } => UserCommand::Show { user },
        UserVerb::Promote { user } => UserCommand::Admin { user, on: true },
        UserVerb::Demote { user } => UserCommand::Admin { user, on: false },
        UserVerb::LogOut { user } => UserCommand::LogOut { user },
        UserVerb::Deactivate { user, erase } => UserCommand::Deactivate { user, erase },
        UserVerb::Reactivate { user, password_stdin } => {
            UserCommand::Reactivate { user, password: password(password_stdin)? }
        }
        UserVerb::Notice { user, text } => UserCommand::Notice { user, text },
    };
    run(source, Command::User(command)).await
}

/// A password never stands on the command line, where every process of the machine could read it.
fn password(from_stdin: bool) -> Result<Option<String>, String> {
    if !from_stdin {
        return Ok(None);
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| format!("cannot read the password: {e}"))?;
    match line.trim_end_matches(['\r', '\n']) {
        "" => Err("the password is empty".to_owned()),
        password => Ok(Some(password.to_owned())),
    }
}

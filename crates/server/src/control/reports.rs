//! Commands on what users have reported, and on the record of what was done.

use std::sync::Arc;

use samtal_ops::Homeserver;
use samtal_room::{Case, CaseStep};
use serde::{Deserialize, Serialize};

use super::{Answer, note, rooms::OPERATOR, table, tenant, told};

/// Most cases that are looked at.
const CASES_MAX: usize = 10_000;

/// A command on reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportCommand {
    /// Which tenant's; may be left out where there is one.
    pub tenant: Option<String>,
    /// What to do.
    pub verb: ReportVerb,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportVerb {
    /// Lists the cases.
    List {
        /// Those that are closed too.
        all: bool,
    },
    /// Says what is known of a case.
    Show {
        /// Its number.
        id: i64,
    },
    /// Has somebody deal with a case, or nobody.
    Assign {
        /// Its number.
        id: i64,
        /// Who.
        user: Option<String>,
    },
    /// Ends a case.
    Close {
        /// Its number.
        id: i64,
        /// What came of it.
        note: Option<String>,
    },
    /// Takes a case up again.
    Reopen {
        /// Its number.
        id: i64,
    },
}

/// Runs it.
pub(crate) async fn answer(homeservers: &[Arc<Homeserver>], command: ReportCommand) -> Answer {
    let hs = tenant(homeservers, command.tenant.as_deref())?;
    match command.verb {
        ReportVerb::List { all } => list(hs, all).await,
        ReportVerb::Show { id } => show(hs, id).await,
        ReportVerb::Assign { id, user } => {
            let user = user.map(|user| super::users::id_at(hs, &user)).transpose()?;
            let step = CaseStep::Assign(user.as_deref().map(ruma::UserId::as_str));
            work(hs, id, step, "report assign").await?;
            Ok(vec![match user {
                Some(user) => format!("case {id} is {user}'s now"),
                None => format!("case {id} is nobody's now"),
            }])
        }
        ReportVerb::Close { id, note } => {
            work(hs, id, CaseStep::Close { by: OPERATOR, note: note.as_deref() }, "report close").await?;
            Ok(vec![format!("case {id} is closed")])
        }
        ReportVerb::Reopen { id } => {
            work(hs, id, CaseStep::Reopen, "report reopen").await?;
            Ok(vec![format!("case {id} is open again")])
        }
    }
}

async fn work(hs: &Homeserver, id: i64, step: CaseStep<'_>, action: &str) -> Result<(), String> {
    if !hs.rooms.work_case(id, step).await.map_err(|e| told(&e))? {
        return Err(format!("there is no case {id}"));
    }
    note(hs, action, &id.to_string()).await;
    Ok(())
}

fn state(case: &Case) -> &'static str {
    match (case.closed, &case.assignee) {
        (true, _) => "closed",
        (false, Some(_)) => "assigned",
        (false, None) => "open",
    }
}

/// What it is about: the event's room, the user or the room.
fn about(case: &Case) -> String {
    match (&case.event_id, &case.user_id, &case.room_id) {
        (Some(event), ..) => format!("event {event}"),
        (None, Some(user), _) => format!("user {user}"),
        (None, None, room) => format!("room {}", room.as_deref().unwrap_or_default()),
    }
}

/// One line of what somebody wrote.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect()
}

async fn list(hs: &Homeserver, all: bool) -> Answer {
    let mut cases = hs.rooms.cases(i64::MAX, CASES_MAX).await.map_err(|e| told(&e))?;
    cases.retain(|case| all || !case.closed);
    if cases.is_empty() {
        return Ok(vec!["no reports wait".to_owned()]);
    }
    let mut rows = vec![["CASE", "STATE", "REPORTED BY", "ABOUT", "REASON"].map(str::to_owned).to_vec()];
    rows.extend(cases.iter().map(|case| {
        vec![case.id.to_string(), state(case).to_owned(), case.reporter.clone(), about(case), line(&case.reason)]
    }));
    Ok(table(&rows))
}

async fn show(hs: &Homeserver, id: i64) -> Answer {
    let case = hs.rooms.case(id).await.map_err(|e| told(&e))?.ok_or_else(|| format!("there is no case {id}"))?;
    let row = |name: &str, value: Option<String>| value.map(|value| vec![name.to_owned(), value]);
    let reason: String = case.reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let rows: Vec<Vec<String>> = [
        row("case", Some(id.to_string())),
        row("state", Some(state(&case).to_owned())),
        row("reported by", Some(case.reporter.clone())),
        row("reported (ms)", Some(case.reported_ms.to_string())),
        row("about", Some(about(&case))),
        row("in room", case.event_id.as_ref().and(case.room_id.clone())),
        row("reason", Some(reason)),
        row("assigned to", case.assignee.clone()),
        row("closed by", case.closed_by.clone()),
        row("note", case.note.clone()),
    ]
    .into_iter()
    .flatten()
    .collect();
    Ok(table(&rows))
}

/// What administrators did, the newest last.
pub(crate) async fn audit(homeservers: &[Arc<Homeserver>], name: Option<&str>, count: usize) -> Answer {
    let hs = tenant(homeservers, name)?;
    let mut entries = hs.accounts.audited(i64::MAX, count).await.map_err(|e| told(&e))?;
    entries.reverse();
    let mut rows = vec![["TIME (MS)", "WHO", "WHAT", "OUTCOME", "ON"].map(str::to_owned).to_vec()];
    rows.extend(
        entries
            .into_iter()
            .map(|entry| vec![entry.at_ms.to_string(), entry.actor, entry.action, entry.outcome, entry.subject]),
    );
    Ok(table(&rows))
}

//! `samtal room`, `samtal report`, `samtal audit`.

use samtal_config::Source;
use samtal_server::control::{self, Command, ReportCommand, RoomCommand};

use crate::Outcome;
use crate::args::{ReportArgs, ReportVerb, RoomArgs, RoomVerb};
use crate::backup::run;

pub(crate) async fn room(source: &Source, args: RoomArgs) -> Outcome {
    let verb = match args.verb {
        RoomVerb::List => control::RoomVerb::List,
        RoomVerb::Show { room } => control::RoomVerb::Show { room },
        RoomVerb::Block { room } => control::RoomVerb::Block { room, on: true },
        RoomVerb::Unblock { room } => control::RoomVerb::Block { room, on: false },
        RoomVerb::Delete { room, block, keep } => control::RoomVerb::Delete { room, block, keep },
        RoomVerb::Recover { room, to } => control::RoomVerb::Recover { room, user: to },
        RoomVerb::RefuseInvites { sender, server, room } => control::RoomVerb::RefuseInvites { sender, server, room },
    };
    run(source, Command::Room(RoomCommand { tenant: args.tenant, verb })).await
}

pub(crate) async fn report(source: &Source, args: ReportArgs) -> Outcome {
    let verb = match args.verb {
        ReportVerb::List { all } => control::ReportVerb::List { all },
        ReportVerb::Show { case } => control::ReportVerb::Show { id: case },
        ReportVerb::Assign { case, to } => control::ReportVerb::Assign { id: case, user: to },
        ReportVerb::Close { case, note } => control::ReportVerb::Close { id: case, note },
        ReportVerb::Reopen { case } => control::ReportVerb::Reopen { id: case },
    };
    run(source, Command::Report(ReportCommand { tenant: args.tenant, verb })).await
}

pub(crate) async fn audit(source: &Source, tenant: Option<String>, count: usize) -> Outcome {
    run(source, Command::Audit { tenant, count }).await
}

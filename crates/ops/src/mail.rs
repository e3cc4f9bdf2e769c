//! Sending mail.

mod plain;

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, Header, HeaderName, HeaderValue},
    },
    transport::smtp::authentication::Credentials,
};
use samtal_kit::Secret;
use samtal_push::{Letter, Mailed, Mailer};

use crate::Homeserver;

/// How long the mail server has for each answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// The mail server.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: MailTls,
    /// User and password there.
    pub credentials: Option<(String, Secret<String>)>,
    /// The sender's address.
    pub from: String,
    /// Whether users may have themselves told of unread messages by mail, and how; nothing if not.
    pub notifications: Option<MailNotifications>,
}

/// How users are told of unread messages by mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailNotifications {
    /// How long a letter waits for its messages to be read elsewhere.
    pub delay: Duration,
    /// The first pause between two letters to the same person; it doubles while they do not read, up to a day.
    pub pause: Duration,
}

impl Default for MailNotifications {
    fn default() -> Self {
        Self { delay: Duration::from_secs(10 * 60), pause: Duration::from_secs(3_600) }
    }
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// Not at all.
    None,
    /// By STARTTLS.
    StartTls,
    /// TLS from the beginning.
    Tls,
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// No mail server is known.
    #[error("no mail server is configured")]
    NotConfigured,
    /// An address is not one.
    #[error("not a mail address")]
    Address(#[from] lettre::address::AddressError),
    /// The mail cannot be written.
    #[error("the mail cannot be written")]
    Message(#[from] lettre::error::Error),
    /// The mail server refuses it or cannot be reached.
    #[error("the mail server did not take the mail: {0}")]
    Transport(#[from] lettre::transport::smtp::Error),
    /// A mail server of the oldest kind refuses it or cannot be reached.
    #[error("the mail server did not take the mail: {0}")]
    Plain(#[from] std::io::Error),
}

/// Where a mail program finds the way out of further mails (RFC 2369), which it may take by itself (RFC 8058).
#[derive(Clone)]
struct ListUnsubscribe(String);

impl Header for ListUnsubscribe {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("List-Unsubscribe")
    }

    fn parse(value: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self(value.to_owned()))
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), format!("<{}>", self.0))
    }
}

#[derive(Clone)]
struct ListUnsubscribePost;

impl Header for ListUnsubscribePost {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("List-Unsubscribe-Post")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "List-Unsubscribe=One-Click".to_owned())
    }
}

impl Homeserver {
    /// Sends a plain text.
    pub async fn send_mail(&self, to: &str, subject: &str, text: String) -> Result<(), MailError> {
        let mail = self.settings.mail.as_ref().ok_or(MailError::NotConfigured)?;
        mail.send(to, subject, text, None).await
    }
}

/// Letters about unread messages go the same way.
impl Mailer for Mail {
    fn send(&self, letter: Letter) -> Mailed<'_> {
        Box::pin(async move {
            let sent = Mail::send(self, &letter.to, &letter.subject, letter.text, letter.unsubscribe).await;
            sent.map_err(|error| samtal_push::MailError(Box::new(error)))
        })
    }
}

impl Mail {
    async fn send(&self, to: &str, subject: &str, text: String, unsubscribe: Option<String>) -> Result<(), MailError> {
        let mut message = Message::builder()
            .from(self.from.parse::<Mailbox>()?)
            .to(to.parse::<Mailbox>()?)
            .subject(subject)
            .header(ContentType::TEXT_PLAIN);
        if let Some(url) = unsubscribe {
            message = message.header(ListUnsubscribe(url)).header(ListUnsubscribePost);
        }
        let message = message.body(text)?;
        let sent = self.transport()?.send(message.clone()).await;
        match sent {
            // Unprotected and without a password there is nothing that an older greeting would lose.
            Err(error) if error.is_permanent() && self.tls == MailTls::None && self.credentials.is_none() => {
                let handing_over = plain::send(&self.host, self.port, &message);
                Ok(tokio::time::timeout(ANSWER_TIME_MAX, handing_over).await.map_err(std::io::Error::from)??)
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
        let builder = match self.tls {
            MailTls::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host),
            MailTls::StartTls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(&self.host)?,
            MailTls::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(&self.host)?,
        };
        let builder = builder.port(self.port).timeout(Some(ANSWER_TIME_MAX));
        Ok(match &self.credentials {
            Some((user, password)) => builder.credentials(Credentials::new(user.clone(), password.expose().clone())),
            None => builder,
        }
        .build())
    }
}

//! What somebody asks for: words, "words in this order", -words that must not be there.

use std::collections::{BTreeSet, HashMap};

use crate::word::{Languages, fold, reversed, words};

/// Marks the end of a word, written from its end.
pub(crate) const TAIL: char = '¬';
/// Marks a word without its accents.
pub(crate) const FOLDED: char = '≈';
/// Marks a room's number.
pub(crate) const ROOM: char = '§';
/// Marks a sender.
pub(crate) const SENDER: char = '¤';
/// Shortest word of which the end is kept apart, in characters: shorter ones are not compounds.
const TAIL_CHARS_MIN: usize = 7;
/// Shortest part of a word that is looked for, in characters.
const PART_CHARS_MIN: usize = 3;
/// Words of one query that count.
const QUERY_WORDS_MAX: usize = 16;

/// How near a word must come to what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// A form of it.
    Form,
    /// Or a word that begins or ends with it, with or without accents.
    Part,
}

/// A search term, understood.
#[derive(Debug)]
pub(crate) struct Query {
    wanted: Vec<Wanted>,
    /// Words that must follow each other, as indexes into `wanted`.
    phrases: Vec<std::ops::Range<usize>>,
    unwanted: Vec<Wanted>,
}

#[derive(Debug)]
struct Wanted {
    word: String,
    folded: String,
    stems: Vec<String>,
}

/// How well a text answers a query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Match {
    /// Higher is better; above 0.
    pub(crate) rank: f64,
    /// The words of the text that were meant.
    pub(crate) words: BTreeSet<String>,
}

/// The engine's language of queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Fts5,
    Tsquery,
}

/// The tokens of a document in the index, separated by spaces.
pub(crate) fn tokens(languages: &Languages, text: &str) -> BTreeSet<String> {
    let mut tokens = BTreeSet::new();
    for word in words(text).into_iter().collect::<BTreeSet<_>>() {
        let stems = languages.stems(&word);
        let folded = fold(&word);
        if word.chars().count() >= TAIL_CHARS_MIN
            && let Some(stem) = stems.first()
        {
            tokens.insert(format!("{TAIL}{}", reversed(&fold(stem))));
        }
        if folded != word {
            tokens.insert(format!("{FOLDED}{folded}"));
        }
        tokens.extend(stems);
    }
    tokens
}

impl Query {
    pub(crate) fn parse(languages: &Languages, term: &str) -> Self {
        let mut query = Self { wanted: Vec::new(), phrases: Vec::new(), unwanted: Vec::new() };
        for (index, part) in term.split('"').enumerate() {
            if index % 2 == 1 {
                let start = query.wanted.len();
                query.want(languages, part);
                if query.wanted.len() > start + 1 {
                    query.phrases.push(start..query.wanted.len());
                }
                continue;
            }
            for piece in part.split_whitespace() {
                match piece.strip_prefix('-') {
                    Some(unwanted) => query.unwanted.extend(Wanted::of(languages, unwanted)),
                    None => query.want(languages, piece),
                }
            }
        }
        query.unwanted.truncate(QUERY_WORDS_MAX);
        query
    }

    fn want(&mut self, languages: &Languages, text: &str) {
        let room = QUERY_WORDS_MAX.saturating_sub(self.wanted.len());
        self.wanted.extend(Wanted::of(languages, text).take(room));
    }

    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The query as the engine wants it, with one of `others` for each list of marks that must be there too.
    pub(crate) fn expression(&self, dialect: Dialect, reach: Reach, others: &[Vec<String>]) -> String {
        let any = |tokens: Vec<String>| match dialect {
            Dialect::Fts5 => format!("({})", tokens.join(" OR ")),
            Dialect::Tsquery => format!("({})", tokens.join(" | ")),
        };
        let mut all: Vec<String> = self.wanted.iter().map(|wanted| any(wanted.tokens(dialect, reach))).collect();
        for marks in others {
            all.push(any(marks.iter().map(|mark| exact(dialect, mark)).collect()));
        }
        let not: Vec<String> =
            self.unwanted.iter().map(|unwanted| any(unwanted.tokens(dialect, Reach::Form))).collect();
        match dialect {
            Dialect::Fts5 if not.is_empty() => all.join(" AND "),
            Dialect::Fts5 => format!("({}) NOT ({})", all.join(" AND "), not.join(" OR ")),
            Dialect::Tsquery => {
                all.extend(not.iter().map(|not| format!("!{not}")));
                all.join(" & ")
            }
        }
    }

    /// Whether a text that the index found must be looked at before it counts.
    pub(crate) fn must_look(&self) -> bool {
        !self.phrases.is_empty()
    }

    /// How well a text answers, if it does.
    pub(crate) fn look(&self, languages: &Languages, text: &str) -> Option<Match> {
        let text: Vec<Word> = words(text).into_iter().map(|word| Word::new(languages, word)).collect();
        let mut found = Match::default();
        let mut places: Vec<Vec<usize>> = vec![Vec::new(); self.wanted.len()];
        let mut counts: HashMap<(usize, u8), u32> = HashMap::new();
        for (at, word) in text.iter().enumerate() {
            for (index, wanted) in self.wanted.iter().enumerate() {
                if let Some(nearness) = wanted.nearness(word) {
                    *counts.entry((index, nearness)).or_default() += 1;
                    places[index].push(at);
                    found.words.insert(word.word.clone());
                }
            }
        }
        let length = 1.0 + 0.02 * f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
        let follows = |range: &std::ops::Range<usize>| {
            places[range.start].iter().any(|first| {
                range.clone().skip(1).zip(1..).all(|(index, offset)| places[index].contains(&(first + offset)))
            })
        };
        if !self.phrases.iter().all(follows) {
            return None;
        }
        for index in 0..self.wanted.len() {
            let best = (0..=3_u8).rev().find_map(|near| counts.get(&(index, near)).map(|count| (near, *count)));
            if let Some((nearness, count)) = best {
                found.rank += (1.0 + f64::from(nearness)) * (1.0 + f64::from(count).ln()) / length;
            }
        }
        if self.wanted.len() > 1 && follows(&(0..self.wanted.len())) {
            found.rank *= 1.5;
        }
        Some(found)
    }
}

struct Word {
    folded: String,
    stems: Vec<String>,
    word: String,
}

impl Word {
    fn new(languages: &Languages, word: String) -> Self {
        Self { folded: fold(&word), stems: languages.stems(&word), word }
    }
}

impl Wanted {
    fn of(languages: &Languages, text: &str) -> impl Iterator<Item = Self> {
        words(text).into_iter().map(|word| Self { folded: fold(&word), stems: languages.stems(&word), word })
    }

    fn tokens(&self, dialect: Dialect, reach: Reach) -> Vec<String> {
        let mut tokens: Vec<String> = self.stems.iter().map(|stem| exact(dialect, stem)).collect();
        if self.folded == self.word {
            tokens.push(exact(dialect, &format!("{FOLDED}{}", self.word)));
        }
        if reach == Reach::Part {
            tokens.push(exact(dialect, &self.folded));
            if self.word.chars().count() >= PART_CHARS_MIN {
                tokens.push(beginning(dialect, &self.word));
                tokens.push(beginning(dialect, &format!("{FOLDED}{}", self.folded)));
                for stem in &self.stems {
                    tokens.push(beginning(dialect, &format!("{TAIL}{}", reversed(&fold(stem)))));
                }
            }
        }
        tokens
    }

    /// How near a word of a text comes: 3 the same, 2 a form, 1 the same without accents, 0 a part.
    fn nearness(&self, word: &Word) -> Option<u8> {
        if word.word == self.word {
            return Some(3);
        }
        if self.stems.iter().any(|stem| word.stems.contains(stem)) {
            return Some(2);
        }
        if word.folded == self.folded {
            return Some(1);
        }
        let is_long = self.word.chars().count() >= PART_CHARS_MIN;
        let stem = self.stems.first().map(|stem| fold(stem)).unwrap_or_default();
        let has_part = word.folded.starts_with(&self.folded)
            || word.stems.first().is_some_and(|whole| fold(whole).ends_with(&stem));
        (is_long && has_part).then_some(0)
    }
}

// Tokens hold letters, digits and our marks only: nothing in them means anything to the engines.
fn exact(dialect: Dialect, token: &str) -> String {
    match dialect {
        Dialect::Fts5 => format!("\"{token}\""),
        Dialect::Tsquery => format!("'{token}'"),
    }
}

fn beginning(dialect: Dialect, token: &str) -> String {
    match dialect {
        Dialect::Fts5 => format!("\"{token}\" *"),
        Dialect::Tsquery => format!("'{token}':*"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::Language;

    fn languages() -> Languages {
        Languages::new(&[Language::Swedish, Language::English])
    }

    fn rank(term: &str, text: &str) -> Option<f64> {
        let languages = languages();
        Query::parse(&languages, term).look(&languages, text).map(|found| found.rank)
    }

    #[test]
    fn the_word_itself_beats_a_form_of_it_and_a_form_beats_a_part() {
        let same = rank("möte", "möte idag").unwrap();
        let form = rank("möte", "mötena idag").unwrap();
        let part = rank("möte", "möteslokal idag").unwrap();
        assert!(same > form && form > part, "{same} {form} {part}");
    }

    #[test]
    fn words_in_quotation_marks_must_follow_each_other() {
        assert!(rank("\"red house\"", "the red houses").is_some());
        assert!(rank("\"red house\"", "the house is red").is_none());
    }

    #[test]
    fn both_engines_are_asked_the_same() {
        let languages = languages();
        let query = Query::parse(&languages, "hej -då");
        let marks = [vec!["§1".to_owned(), "§2".to_owned()]];
        assert_eq!(
            query.expression(Dialect::Fts5, Reach::Form, &marks),
            "((\"hej\" OR \"≈hej\") AND (\"§1\" OR \"§2\")) NOT ((\"då\"))"
        );
        assert_eq!(
            query.expression(Dialect::Tsquery, Reach::Form, &marks),
            "('hej' | '≈hej') & ('§1' | '§2') & !('då')"
        );
    }

    #[test]
    fn signs_of_the_engines_mean_nothing() {
        let languages = languages();
        let query = Query::parse(&languages, "a' OR \"b* NEAR(\\ c:d ¬x §1");
        let text = query.expression(Dialect::Tsquery, Reach::Part, &[]);
        assert!(!text.contains('\\') && !text.contains("NEAR") && !text.contains('§'), "{text}");
    }
}

//! Which column is which field of a lead.
use std::str::FromStr;

use dripline_domain::LeadStatus;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rows::{RowError, Told};
use crate::export;

/// What a lead has besides attributes, as it stands in the queue.
const FIELDS: [&str; 5] = ["email", "firstName", "lastName", "phone", "sequence"];
const EMAIL: usize = 0;
const SEQUENCE: usize = 4;

/// The column that holds attributes as one JSON object.
const ATTRIBUTES: &str = "attributes";

/// The columns that a file of rejected rows has before the row's own.
pub(super) const REJECTED_COLUMNS: [&str; 3] = ["rejected_line", "rejected_code", "rejected_reason"];

/// What becomes of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// One of [`FIELDS`], by its place there.
    Field(usize),
    /// An attribute of this name.
    Attribute(String),
    /// A JSON object, each of its fields an attribute.
    Attributes,
    /// The status in a file that `export` wrote.
    Status,
    /// Nothing.
    LeftOut,
}

/// `COLUMN=FIELD`; with nothing behind the `=`, the column is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Assignment {
    column: String,
    field: String,
}

impl FromStr for Assignment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (column, field) = text.rsplit_once('=').ok_or("write COLUMN=FIELD, or COLUMN= to leave it out")?;
        Ok(Self { column: column.trim().to_owned(), field: field.trim().to_owned() })
    }
}

/// Two columns would be the same field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{first}` and `{second}` are both `{field}`; leave one out with --map \"{second}=\", or give it another field"
)]
pub(crate) struct Conflict {
    first: String,
    second: String,
    field: String,
}

/// How columns become fields: what was asked for, the fields' own names, what a column's name suggests, and an attribute
/// otherwise.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    /// What was asked for.
    pub(super) assignments: Vec<Assignment>,
    /// For rows that name none.
    pub(super) sequence: Option<String>,
}

impl Mapping {
    /// What becomes of each of these columns. Of several that suggest one field the first is it; the others stay
    /// attributes.
    pub(super) fn targets(&self, columns: &[&str]) -> Result<Vec<Target>, Conflict> {
        let mut targets: Vec<Option<Target>> = columns.iter().map(|column| self.named(column)).collect();
        if self.assignments.is_empty() && columns == export::COLUMNS {
            let known = |column: &str| self.named(column).filter(|target| *target != Target::LeftOut);
            let of_export = |column: &&str| match *column {
                "status" => Some(Target::Status),
                column => Some(known(column).unwrap_or(Target::LeftOut)),
            };
            targets = columns.iter().map(of_export).collect();
        }
        let mut taken: Vec<Target> = targets.iter().flatten().cloned().collect();
        for (column, target) in columns.iter().zip(&mut targets) {
            if target.is_none() {
                let suggested = suggested(column).map(Target::Field).filter(|field| !taken.contains(field));
                let found = suggested.unwrap_or_else(|| Target::Attribute((*column).to_owned()));
                taken.push(found.clone());
                *target = Some(found);
            }
        }
        let targets: Vec<Target> = targets.into_iter().flatten().collect();
        for (at, target) in targets.iter().enumerate().filter(|(_, target)| **target != Target::LeftOut) {
            if let Some(first) = targets[..at].iter().position(|earlier| earlier == target) {
                let (first, second) = (columns[first].to_owned(), columns[at].to_owned());
                return Err(Conflict { first, second, field: name(target).to_owned() });
            }
        }
        Ok(targets)
    }

    /// What was asked for, or the field that has this very name.
    fn named(&self, column: &str) -> Option<Target> {
        if let Some(Assignment { field, .. }) = self.assignments.iter().find(|asked| asked.column == column) {
            return Some(if field.is_empty() {
                Target::LeftOut
            } else {
                own_name(field)
                    .or_else(|| suggested(field).map(Target::Field))
                    .unwrap_or_else(|| Target::Attribute(field.clone()))
            });
        }
        if REJECTED_COLUMNS.contains(&column) { Some(Target::LeftOut) } else { own_name(column) }
    }

    /// The columns that were asked for and are not there.
    pub(super) fn missing<'a>(&'a self, columns: &[&str]) -> Option<&'a str> {
        self.assignments.iter().map(|asked| &*asked.column).find(|asked| !columns.contains(asked))
    }

    /// A lead as it goes into the queue. The fields come first, so that an attribute of a similar name is none of them.
    pub(super) fn lead<'a>(&self, values: impl Iterator<Item = (&'a Target, Value)>) -> Told {
        let mut fields = [const { Value::Null }; FIELDS.len()];
        let (mut attributes, mut together) = (Map::new(), None);
        for (target, value) in values {
            match target {
                Target::Field(field) => fields[*field] = value,
                Target::Attribute(name) => {
                    attributes.insert(name.clone(), value);
                }
                Target::Attributes => together = Some(value),
                Target::Status => may_be_mailed(&value)?,
                Target::LeftOut => {}
            }
        }
        let none = fields[SEQUENCE].is_null() || fields[SEQUENCE].as_str().is_some_and(|name| name.trim().is_empty());
        if let (true, Some(sequence)) = (none, &self.sequence) {
            fields[SEQUENCE] = Value::String(sequence.clone());
        }
        let named = FIELDS.iter().map(|name| (*name).to_owned()).zip(fields);
        let mut lead: Map<_, _> = named.filter(|(_, value)| !value.is_null()).collect();
        lead.append(&mut attributes);
        for (name, value) in together.map(object).transpose()?.unwrap_or_default() {
            lead.entry(name).or_insert(value);
        }
        Ok(lead)
    }
}

/// Whether one of them is the address.
pub(super) fn has_email(targets: &[Target]) -> bool {
    targets.contains(&Target::Field(EMAIL))
}

/// For people: what becomes of each column.
pub(super) fn describe(columns: &[&str], targets: &[Target]) -> String {
    let (mut fields, mut attributes, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for (column, target) in columns.iter().zip(targets) {
        match target {
            Target::Attribute(name) if name == column => attributes.push((*column).to_owned()),
            Target::Attribute(name) => attributes.push(format!("{column} as {name}")),
            Target::Field(_) | Target::Attributes => fields.push(format!("{column} is {}", name(target))),
            Target::Status | Target::LeftOut => left_out.push((*column).to_owned()),
        }
    }
    let mut text = fields.join(", ");
    for (what, columns) in [("attributes", attributes), ("left out", left_out)] {
        if !columns.is_empty() {
            text.push_str(&format!("; {what}: {}", columns.join(", ")));
        }
    }
    text
}

fn name(target: &Target) -> &str {
    match target {
        Target::Field(field) => FIELDS[*field],
        Target::Attribute(name) => name,
        Target::Attributes => ATTRIBUTES,
        Target::Status => "status",
        Target::LeftOut => "",
    }
}

fn own_name(column: &str) -> Option<Target> {
    if column == ATTRIBUTES {
        return Some(Target::Attributes);
    }
    FIELDS.iter().position(|field| *field == column).map(Target::Field)
}

/// The field that a column's name suggests, whatever its case and punctuation.
fn suggested(column: &str) -> Option<usize> {
    let plain: String = column.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    let field = match &*plain {
        "email" | "emailaddress" | "mail" => "email",
        "firstname" | "givenname" | "forename" => "firstName",
        "lastname" | "surname" | "familyname" => "lastName",
        "phone" | "phonenumber" | "telephone" | "mobilephone" => "phone",
        "sequence" => "sequence",
        _ => return None,
    };
    FIELDS.iter().position(|name| *name == field)
}

/// What the status of an exported lead says. One that nobody knows may be a reason not to mail it.
fn may_be_mailed(status: &Value) -> Result<(), RowError> {
    let Some(status) = status.as_str().map(str::trim).filter(|status| !status.is_empty()) else { return Ok(()) };
    match status.parse::<LeadStatus>() {
        Ok(status) if status.forbids_mail() => Err(RowError::Suppressed),
        Ok(_) => Ok(()),
        Err(_) => Err(RowError::Status),
    }
}

fn object(value: Value) -> Result<Map<String, Value>, RowError> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(fields) => Ok(fields),
        Value::String(text) => serde_json::from_str(&text).map_err(|_| RowError::Attributes),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => Err(RowError::Attributes),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mapping(assignments: &[&str]) -> Mapping {
        Mapping { assignments: assignments.iter().map(|text| text.parse().unwrap()).collect(), sequence: None }
    }

    fn said(assignments: &[&str], columns: &[&str]) -> String {
        describe(columns, &mapping(assignments).targets(columns).unwrap())
    }

    #[test]
    fn a_column_is_known_by_what_was_asked_for_by_its_name_or_by_what_that_suggests() {
        for (assignments, columns, says) in [
            (
                &[][..],
                &["E-Mail", "First Name", "SURNAME", "plan"][..],
                "E-Mail is email, First Name is firstName, SURNAME is lastName; attributes: plan",
            ),
            (&[], &["E-Mail", "email"], "email is email; attributes: E-Mail"),
            (&[], &["Mail", "E-Mail"], "Mail is email; attributes: E-Mail"),
            (
                &["who=E-Mail", "plan=tier", "x="],
                &["who", "plan", "x"],
                "who is email; attributes: plan as tier; left out: x",
            ),
            (&["a=b=email"], &["a=b"], "a=b is email"),
            (&[], &["rejected_line", "email"], "email is email; left out: rejected_line"),
            (
                &[],
                &export::COLUMNS,
                "email is email, firstName is firstName, lastName is lastName, phone is phone, sequence is sequence, \
              attributes is attributes; left out: status, step, nextActionTimestamp, createdAt",
            ),
        ] {
            assert_eq!(said(assignments, columns), says);
        }
    }

    #[test]
    fn a_row_of_an_export_whose_lead_must_not_be_mailed_is_none_whatever_the_reason() {
        let mapping = mapping(&[]);
        let targets = mapping.targets(&export::COLUMNS).unwrap();
        let code = |status: &str| {
            let values = export::COLUMNS.iter().map(|column| match *column {
                "email" => json!("a@example.com"),
                "status" => json!(status),
                _ => Value::Null,
            });
            mapping.lead(targets.iter().zip(values)).map(drop).map_err(|error| error.code())
        };
        for status in ["HARD_BOUNCE", "COMPLAINED", "UNSUBSCRIBED", "SUPPRESSED", " SUPPRESSED"] {
            assert_eq!(code(status), Err("suppressed"), "{status}");
        }
        for status in ["NEW", "ACTIVE", "SENDING", "IN_DOUBT", "PARKED", "COMPLETED", ""] {
            assert_eq!(code(status), Ok(()), "{status}");
        }
        assert_eq!(code("suppressed"), Err("unknown_status"));
    }

    #[test]
    fn two_columns_cannot_be_the_same_field() {
        for (assignments, columns) in
            [(&["a=email", "b=email"][..], &["a", "b"][..]), (&["a=plan"], &["a", "plan"]), (&[], &["x", "x"])]
        {
            assert!(mapping(assignments).targets(columns).is_err(), "{columns:?}");
        }
    }

    #[test]
    fn a_field_comes_before_attributes_and_a_column_before_the_same_name_among_attributes() {
        let mapping = Mapping { sequence: Some("welcome".to_owned()), ..mapping(&[]) };
        let columns = ["plan", "attributes", "email"];
        let targets = mapping.targets(&columns).unwrap();
        let values = [json!("pro"), json!(r#"{"plan": "free", "seats": 3}"#), json!("a@example.com")];
        let lead = mapping.lead(targets.iter().zip(values)).unwrap();
        assert_eq!(
            serde_json::to_string(&lead).unwrap(),
            r#"{"email":"a@example.com","sequence":"welcome","plan":"pro","seats":3}"#
        );
        let wrong = [json!("pro"), json!("[1]"), json!("a@example.com")];
        assert!(matches!(mapping.lead(targets.iter().zip(wrong)), Err(RowError::Attributes)));
    }
}

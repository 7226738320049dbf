//! Where recovery of plans stands.

use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError, of_json, to_json};

impl Store {
    /// Stores where recovery of a plan stands; `None` forgets it (it is normal). `epoch` is that of the leader who says so.
    ///
    /// # Errors
    /// If it could not be stored; [`StoreError::Superseded`] if another one leads by now.
    pub async fn set_recovery<T: serde::Serialize>(
        &self,
        plan: &str,
        state: Option<&T>,
        epoch: u64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.dialect.begin(&self.pool).await?;
        if self.is_shared() {
            let leads = sqlx::query("SELECT epoch FROM lead").fetch_optional(&mut *transaction).await?;
            let leads = leads.map(|row| row.try_get::<i64, _>(0)).transpose()?;
            if leads.map(i64::unsigned_abs) != Some(epoch) {
                return Err(StoreError::Superseded);
            }
        }
        match state {
            Some(state) => {
                let sql = "INSERT INTO recovery (plan, body) VALUES ($1, $2)
                    ON CONFLICT (plan) DO UPDATE SET body = excluded.body";
                let body = to_json("recovery", state)?;
                sqlx::query(sql).bind(plan.to_owned()).bind(body).execute(&mut *transaction).await?;
            }
            None => {
                let sql = "DELETE FROM recovery WHERE plan = $1";
                sqlx::query(sql).bind(plan.to_owned()).execute(&mut *transaction).await?;
            }
        }
        Ok(transaction.commit().await?)
    }

    /// Where recovery stands, by plan; plans that are not in it are normal.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn recovery<T: serde::de::DeserializeOwned>(&self) -> Result<Vec<(String, T)>, StoreError> {
        let rows = sqlx::query("SELECT plan, body FROM recovery ORDER BY plan").fetch_all(&self.pool).await?;
        let read = |row: &AnyRow| -> Result<(String, T), StoreError> {
            Ok((row.try_get(0)?, of_json("recovery", &row.try_get::<String, _>(1)?)?))
        };
        rows.iter().map(read).collect()
    }
}

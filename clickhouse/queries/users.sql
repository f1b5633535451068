-- What is known of users: all of them, or one (user_id not empty).
SELECT u.id AS id, u.email AS email, u.name AS name
FROM users AS u
WHERE {user_id:String} = '' OR u.id = {user_id:String}
ORDER BY id
LIMIT {limit:UInt32};
